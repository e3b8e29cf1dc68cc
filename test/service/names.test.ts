import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatAddress } from '../../src/core/ip.ts';
import type { ServiceFact } from '../../src/service/facts.ts';
import { ServiceModel } from '../../src/service/model.ts';
import { DEFAULT_SETTINGS, type ServiceSettings } from '../../src/service/settings.ts';
import { addressFacts, service } from './build.ts';

const WEB = 'default/web';
const VIP_A = service('cluster-a', WEB, {
  frontends: { '10.96.0.1': 'http=TCP/80', 'fd00:96::1': 'http=TCP/80' },
  backends: { '10.1.0.1': 'http=TCP/8080' },
});
const VIP_B = service('cluster-b', WEB, {
  frontends: { '10.97.0.1': 'http=TCP/8080' },
  backends: { '10.2.0.1': 'http=TCP/80' },
});

function modelOf(facts: readonly ServiceFact[], settings: Partial<ServiceSettings> = {}, taken: string[] = []) {
  const model = new ServiceModel(addressFacts(new Set(taken)), () => 1);
  model.configure({ ...DEFAULT_SETTINGS, ...settings });
  model.setJoined('cluster-a');
  for (const fact of facts) model.setService(fact.cluster, `${fact.namespace}/${fact.name}`, fact);
  model.settle();
  return model;
}

/** `kind: frontends | backends`. */
function texts(model: ServiceModel, name = WEB): string[] {
  return model
    .named(name)
    .map(
      ({ kind, frontends, headless }) =>
        `${kind}: ${frontends.map(({ address, ports }) => `${formatAddress(address)}:${ports.map(({ port }) => port)}`).join(' ')} | ${
          headless?.map(({ address, cluster }) => `${formatAddress(address)} ${cluster}`).join(' ') ?? '-'
        }`,
    );
}

test('a name has the addresses that the local cluster gave the service', () => {
  assert.deepEqual(texts(modelOf([VIP_A, VIP_B])), ['global: 10.96.0.1:80 fd00:96::1:80 | -']);
  assert.deepEqual(texts(modelOf([VIP_A, VIP_B], { local: 'cluster-b' })), ['global: 10.97.0.1:8080 | -']);
  assert.deepEqual(texts(modelOf([VIP_A, VIP_B], { local: 'cluster-z' })), ['global: 10.96.0.1:80 fd00:96::1:80 | -']);
  assert.deepEqual(texts(modelOf([VIP_B])), ['global: 10.97.0.1:8080 | -']);
});

test('an address that is not in force is not told, and another cluster steps in where none is left', () => {
  assert.deepEqual(texts(modelOf([VIP_A, VIP_B], {}, ['10.96.0.1'])), ['global: fd00:96::1:80 | -']);
  const refused = ['10.96.0.1', 'fd00:96::1'];
  assert.deepEqual(texts(modelOf([VIP_A, VIP_B], {}, refused)), ['global: 10.97.0.1:8080 | -']);
  assert.deepEqual(texts(modelOf([VIP_A], {}, refused)), ['global:  | -']);
  const thief = service('cluster-b', 'default/thief', { frontends: { '10.96.0.1': 'http=TCP/80' } });
  assert.deepEqual(texts(modelOf([VIP_A, thief]), 'default/thief'), ['global:  | -']);
});

test('what the joined cluster does not share is another service under the same name', () => {
  const own = { ...VIP_A, includeExternal: false, shared: false };
  assert.deepEqual(texts(modelOf([own, VIP_B])), ['own: 10.96.0.1:80 fd00:96::1:80 | -', 'global: 10.97.0.1:8080 | -']);
});

const DB = 'default/db';
const DB_A = service('cluster-a', DB, { backends: { '10.1.0.1': 'pg=TCP/5432', 'fd00:1::1': 'pg=TCP/5432' } });
const DB_B = service('cluster-b', DB, { backends: { '10.2.0.1': 'pg=TCP/5432' } });

test('a headless service has the backends that would get connections', () => {
  const model = modelOf([DB_A, DB_B]);
  assert.deepEqual(texts(model, DB), ['global:  | 10.1.0.1 cluster-a fd00:1::1 cluster-a 10.2.0.1 cluster-b']);
  const [view] = model.views(DB);
  assert.deepEqual([...new Set(view?.backends.map(({ state, serving }) => `${state} ${serving}`))], ['active true']);
  assert.deepEqual(texts(modelOf([DB_A, DB_B], { affinity: new Map([[DB, 'remote']]) }), DB), [
    'global:  | 10.2.0.1 cluster-b',
  ]);
  assert.deepEqual(texts(modelOf([DB_A, DB_B], { weights: new Map([['cluster-a', 0]]) }), DB), [
    'global:  | 10.2.0.1 cluster-b',
  ]);
});

test('a lost cluster leaves a headless name, as the last resort or altogether, and comes back', () => {
  for (const [onClusterLoss, last] of [
    ['keep', 'global:  | 10.2.0.1 cluster-b'],
    ['remove', 'global:  | '],
  ] as const) {
    const model = modelOf([DB_A, DB_B], { onClusterLoss });
    const lose = (cluster: string, lostSince: number | undefined): void => {
      model.setCluster(cluster, { lostSince });
      model.settle();
    };
    lose('cluster-b', 1);
    assert.deepEqual(texts(model, DB), ['global:  | 10.1.0.1 cluster-a fd00:1::1 cluster-a']);
    model.setService('cluster-a', DB, undefined);
    model.settle();
    assert.deepEqual(texts(model, DB), [last]);
    lose('cluster-b', undefined);
    assert.deepEqual(texts(model, DB), ['global:  | 10.2.0.1 cluster-b']);
  }
});

test('a namespace is there as long as it has a service of the kind', () => {
  const model = modelOf([VIP_A, { ...DB_A, includeExternal: false, shared: false }]);
  const has = (): boolean[] => [model.hasNamespace('default', 'own'), model.hasNamespace('default', 'global')];
  assert.deepEqual(has(), [true, true]);
  model.setService('cluster-a', WEB, undefined);
  model.settle();
  assert.deepEqual(has(), [true, false]);
  model.setService('cluster-a', DB, DB_A);
  model.settle();
  assert.deepEqual(has(), [false, true]);
  model.setService('cluster-a', DB, undefined);
  model.settle();
  assert.deepEqual(has(), [false, false]);
  assert.deepEqual(model.named(DB), []);
});
