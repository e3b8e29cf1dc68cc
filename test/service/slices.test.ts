import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { BackendCondition, EndpointSlice } from '../../src/kvstore/codec/endpoint-slice.ts';
import { mergeSlices } from '../../src/service/slices.ts';
import { ports, service } from './build.ts';

const WEB = service('b', 'ns/web', {
  frontends: { '10.97.0.1': 'http=TCP/80' },
  backends: { '10.2.0.9': 'http=TCP/80' },
});

function slice(
  name: string,
  backends: Record<string, BackendCondition | 'ready'>,
  text = 'http=TCP/80',
): EndpointSlice {
  const conditions = Object.entries(backends).map(
    ([address, condition]) => [address, condition === 'ready' ? undefined : condition] as const,
  );
  return {
    cluster: 'b',
    clusterId: 2,
    namespace: 'ns',
    name,
    service: 'web',
    ports: ports(text),
    backends: new Map(conditions),
    hostnames: new Map(),
  };
}

test('without slices the service speaks for itself, and with neither there is nothing', () => {
  assert.equal(mergeSlices(WEB, []), WEB);
  assert.equal(mergeSlices(undefined, []), undefined);
});

test('slices have the backends and their conditions, the service its frontends and whether it is shared', () => {
  const merged = mergeSlices({ ...WEB, shared: false }, [
    slice('web-1', { '10.2.0.1': 'ready', '10.2.0.2': 'terminating' }),
    slice('web-2', { '10.2.0.3': 'not-ready' }),
  ]);
  assert.deepEqual([...(merged?.backends.keys() ?? [])], ['10.2.0.1', '10.2.0.2', '10.2.0.3']);
  assert.deepEqual(
    [...(merged?.conditions ?? [])],
    [
      ['10.2.0.2', 'terminating'],
      ['10.2.0.3', 'not-ready'],
    ],
  );
  assert.deepEqual([merged?.frontends, merged?.shared], [WEB.frontends, false]);
  assert.deepEqual(mergeSlices(WEB, [slice('web-1', {})])?.backends.size, 0, 'an empty slice is a word as well');
});

test('host names are those of the slices', () => {
  const named = { ...slice('web-1', { '10.2.0.1': 'ready' }), hostnames: new Map([['10.2.0.1', 'db-0']]) };
  const merged = mergeSlices({ ...WEB, hostnames: new Map([['10.2.0.9', 'old']]) }, [named, slice('web-2', {})]);
  assert.deepEqual([...(merged?.hostnames ?? [])], [['10.2.0.1', 'db-0']]);
});

test('an address in several slices has the ports of all, and is as ready as the best of them', () => {
  const merged = mergeSlices(WEB, [
    slice('web-1', { '10.2.0.1': 'not-ready', '10.2.0.2': 'ready' }, 'http=TCP/80'),
    slice('web-2', { '10.2.0.1': 'terminating', '10.2.0.2': 'not-ready' }, 'grpc=TCP/90 http=TCP/80'),
  ]);
  assert.deepEqual(merged?.backends.get('10.2.0.1'), ports('http=TCP/80 grpc=TCP/90'));
  assert.deepEqual([...(merged?.conditions ?? [])], [['10.2.0.1', 'terminating']]);
});

test('a cluster that writes slices alone gives backends to a service that others have, and no frontend', () => {
  const merged = mergeSlices(undefined, [slice('web-1', { '10.2.0.1': 'ready' })]);
  assert.deepEqual(
    [merged?.cluster, merged?.namespace, merged?.name, merged?.frontends.size, merged?.includeExternal, merged?.shared],
    ['b', 'ns', 'web', 0, true, true],
  );
});

test('many slices with other ports for the same addresses cost no more than one address can have', () => {
  const addresses = Array.from({ length: 1000 }, (_, index) => `10.2.${index >> 8}.${index & 255}`);
  const backends = Object.fromEntries(addresses.map((address) => [address, 'ready' as const]));
  const slices = Array.from({ length: 300 }, (_, index) =>
    slice(`web-${index}`, backends, Array.from({ length: 100 }, (_, each) => `p${index}-${each}=TCP/80`).join(' ')),
  );
  const merged = mergeSlices(undefined, slices);
  assert.equal(merged?.backends.size, 1000);
  for (const all of merged?.backends.values() ?? []) assert.equal(all.length, 100);
});
