import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { ClusterDirectory } from '../../src/agent/cluster-directory.ts';
import { PolicyFeed } from '../../src/agent/policy-feed.ts';
import { Health } from '../../src/api/health.ts';
import type { PrefixSink, Store } from '../../src/kvstore/store.ts';
import { Mesh } from '../../src/mesh/mesh.ts';
import { PolicyModel } from '../../src/policy/model.ts';
import { PolicyRepository } from '../../src/policy/repository.ts';
import { until } from '../lab/namespace.ts';
import { SETTINGS } from '../policy/build.ts';
import { emptyTables } from './facts.ts';

const policyText = (name: string): string =>
  JSON.stringify({
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNetworkPolicy',
    metadata: { name, namespace: 'production' },
    spec: { endpointSelector: {}, ingress: [{ fromEntities: ['world'] }] },
  });

function folder(t: TestContext): string {
  const root = mkdtempSync(join(tmpdir(), 'mesh-agent-'));
  t.after(() => rmSync(root, { recursive: true, force: true }));
  return join(root, 'files.d');
}

/** Whole at once. */
function put(path: string, name: string, text: string): void {
  writeFileSync(join(path, '..', 'new'), text);
  renameSync(join(path, '..', 'new'), join(path, name));
}

function policies(t: TestContext, path: string) {
  const health = new Health(() => {});
  const model = new PolicyModel(SETTINGS);
  const repository = new PolicyRepository({ model, now: () => 0 });
  const feed = new PolicyFeed({ directory: path, repository, health, onChange: () => {} });
  t.after(() => feed.close());
  const names = (): string[] => repository.list().map(({ name, state }) => `${name.split('/').at(-1)} ${state}`);
  const troubles = (): string[] => health.list().map(({ subject, code }) => `${subject} ${code}`);
  return { feed, repository, names, troubles };
}

test('policy files come, change, turn bad and go; a bad one stays as it was, the others are not touched', async (t) => {
  const path = folder(t);
  mkdirSync(path);
  put(path, 'a.yaml', policyText('a'));
  put(path, 'b.json', policyText('b'));
  put(path, 'notes.txt', policyText('ignored'));
  put(path, '.hidden.yaml', policyText('ignored'));
  const { feed, names, troubles } = policies(t, path);
  assert.match(feed.waitingFor ?? '', /reading the policies/);
  await until('they are read', () => feed.waitingFor === undefined);
  assert.deepEqual(names(), ['a not-selecting', 'b not-selecting']);
  put(path, 'a.yaml', 'kind: [');
  await until('the bad one is seen', () => names().includes('a last-good'));
  put(path, 'a.yaml', policyText('renamed'));
  await until('the good one is seen', () => names().includes('renamed not-selecting'));
  rmSync(join(path, 'b.json'));
  await until('the other is gone', () => names().length === 1);
  assert.deepEqual(troubles(), []);
});

test('a file that cannot be read is told, keeps what it said, and is no trouble any more when it is as before or gone', async (t) => {
  const path = folder(t);
  mkdirSync(path);
  put(path, 'a.yaml', policyText('a'));
  symlinkSync('loop.yaml', join(path, 'loop.yaml'));
  const { feed, names, troubles } = policies(t, path);
  await until('they are read', () => feed.waitingFor === undefined);
  assert.deepEqual(troubles(), ['policy/loop.yaml CFG-FILE']);
  put(path, 'a.yaml', `# ${'x'.repeat(1 << 20)}\n${policyText('a')}`);
  await until('it is too large', () => troubles().includes('policy/a.yaml CFG-FILE'));
  assert.deepEqual(names(), ['a not-selecting']);
  put(path, 'a.yaml', policyText('a'));
  await until('it is as before', () => !troubles().includes('policy/a.yaml CFG-FILE'));
  rmSync(join(path, 'loop.yaml'));
  await until('nothing is wrong', () => troubles().length === 0);
});

test('a directory that cannot be read from the beginning holds enforcement back: nobody knows what it forbids', async (t) => {
  const path = folder(t);
  writeFileSync(path, 'no directory');
  const { feed, names, troubles } = policies(t, path);
  await until('it is told', () => troubles().length > 0);
  await until('it is read once', () => /cannot be read/.test(feed.waitingFor ?? ''));
  rmSync(path);
  mkdirSync(path);
  put(path, 'a.yaml', policyText('a'));
  // No watch could be opened on what was no directory: the poll finds it.
  await until('it is a directory', () => feed.waitingFor === undefined, 15_000);
  assert.deepEqual([names(), troubles()], [['a not-selecting'], []]);
});

test('thousands of policy files are read, changed and removed', async (t) => {
  const path = folder(t);
  mkdirSync(path);
  for (let i = 0; i < 3000; i++) writeFileSync(join(path, `${i}.yaml`), policyText(`p${i}`));
  const { feed, names, troubles } = policies(t, path);
  await until('they are read', () => feed.waitingFor === undefined, 30_000);
  assert.deepEqual([names().length, troubles()], [3000, []]);
  rmSync(path, { recursive: true });
  await until('they are gone', () => names().length === 0, 30_000);
});

/** A store whose watches are driven by the test. */
function handStore() {
  const watched: { sink: PrefixSink; open: boolean; synced: boolean; lastError: string | undefined }[] = [];
  const store = {
    watchPrefix: (_: string, sink: PrefixSink) => {
      const watch = {
        sink,
        open: true,
        synced: false,
        lastError: undefined as string | undefined,
        close: () => {
          watch.open = false;
        },
      };
      watched.push(watch);
      return watch;
    },
  } as unknown as Store;
  return { store, watched };
}

test('policies of the store go when a list lacks them, and stay while a store that lost its data is not believed', async (t) => {
  const { feed, names } = policies(t, folder(t));
  await until('the directory is read', () => feed.waitingFor === undefined);
  const { store, watched } = handStore();
  feed.follow(store);
  feed.follow(store);
  assert.equal(watched.length, 1, 'it is followed once');
  assert.match(feed.waitingFor ?? '', /listing the policies in the store/);
  const list = (at: number, ...policyNames: string[]): void => {
    const watch = watched[at];
    watch?.sink.listing();
    for (const name of policyNames) watch?.sink.put(name, Buffer.from(policyText(name)), 1, 0n);
    watch?.sink.listed();
    if (watch !== undefined) watch.synced = true;
  };
  list(0, 'a', 'b');
  assert.equal(feed.waitingFor, undefined);
  list(0, 'b');
  assert.deepEqual(names(), ['b not-selecting']);
  feed.dataLost();
  assert.deepEqual([watched[0]?.open, names()], [false, ['b not-selecting']]);
  feed.follow(store);
  list(1, 'c');
  assert.deepEqual(names(), ['c not-selecting']);
  watched[1]?.sink.remove('c');
  assert.deepEqual(names(), []);
});

test('a store that does not let us read policies has none for us', async (t) => {
  const { feed } = policies(t, folder(t));
  await until('the directory is read', () => feed.waitingFor === undefined);
  const { store, watched } = handStore();
  feed.follow(store);
  const [watch] = watched;
  if (watch !== undefined) watch.lastError = 'the store refuses access: etcdserver: permission denied';
  assert.equal(feed.waitingFor, undefined);
});

const etcdFile = (port: number): string => `endpoints:\n- http://127.0.0.1:${port}\n`;

function clusters(t: TestContext, path: string) {
  const health = new Health(() => {});
  const mesh = new Mesh({ tables: emptyTables(), onChange: () => {} });
  let changes = 0;
  const events = (): void => {};
  const directory = new ClusterDirectory({ path, mesh, health, events, onChange: () => changes++ });
  t.after(async () => {
    mesh.close();
    await directory.close();
  });
  const names = (): string[] => mesh.list().map(({ cluster }) => `${cluster.name} ${cluster.kind}`);
  const troubles = (): string[] => health.list().map(({ subject, code }) => `${subject} ${code}`);
  return { directory, mesh, names, troubles, changes: () => changes };
}

test('clusters by file come, move and go; keys and certificates beside them are no clusters', async (t) => {
  const path = folder(t);
  mkdirSync(path);
  put(path, 'b', etcdFile(1));
  put(path, 'ca.crt', '-----BEGIN CERTIFICATE-----');
  const { directory, names, troubles } = clusters(t, path);
  await directory.first;
  assert.deepEqual(names(), ['b remote']);
  assert.deepEqual(directory.endpoints, ['http://127.0.0.1:1']);
  const [before] = directory.stores;
  put(path, 'b', etcdFile(2));
  await until('it has moved', () => directory.endpoints[0] === 'http://127.0.0.1:2');
  assert.equal(before?.status.state, 'closed');
  put(path, 'b', 'endpoints: [nonsense');
  await until('it is bad', () => troubles().length === 1);
  assert.deepEqual([names(), directory.endpoints], [['b remote'], ['http://127.0.0.1:2']], 'and stays connected');
  rmSync(join(path, 'b'));
  await until('it is gone', () => names().length === 0);
  assert.deepEqual([troubles(), directory.stores], [[], []]);
});

test('the file of the joined cluster is ignored for as long as it is the joined one', async (t) => {
  const path = folder(t);
  mkdirSync(path);
  put(path, 'a', etcdFile(1));
  put(path, 'bad', 'endpoints: [nonsense');
  const { directory, mesh, names, troubles } = clusters(t, path);
  await directory.first;
  assert.deepEqual([names(), troubles()], [['a remote'], ['cluster/bad MSH-CLUSTER-FILE']]);
  const { store } = handStore();
  const joined = { ...store, watchKey: store.watchPrefix, status: { state: 'connected' } } as unknown as Store;
  mesh.join(joined, { name: 'a', id: 1 });
  directory.joined('a');
  assert.deepEqual([names(), directory.endpoints], [['a joined'], []]);
  put(path, 'a', etcdFile(3));
  put(path, 'late', etcdFile(4));
  await until('the other file is read', () => names().length === 2);
  assert.deepEqual(directory.endpoints, ['http://127.0.0.1:4']);
  mesh.join(joined, { name: 'bad', id: 1 });
  directory.joined('bad');
  assert.deepEqual(names(), ['bad joined', 'a remote', 'late remote']);
  assert.ok(directory.endpoints.includes('http://127.0.0.1:3'), 'its present content counts');
  assert.deepEqual(troubles(), [], 'what the file of the joined cluster says is no trouble');
});

test('many changes of a cluster file leave one connection and nothing behind', async (t) => {
  const path = folder(t);
  mkdirSync(path);
  const { directory, names } = clusters(t, path);
  await directory.first;
  const closed: Store[] = [];
  for (let i = 0; i < 20; i++) {
    put(path, 'b', etcdFile(1 + i));
    await until('it has moved', () => directory.endpoints[0] === `http://127.0.0.1:${1 + i}`);
    closed.push(...directory.stores);
  }
  assert.equal(directory.stores.length, 1);
  assert.deepEqual(names(), ['b remote']);
  assert.equal(closed.filter(({ status }) => status.state !== 'closed').length, 1);
});

test('a folder that takes the place of another does so when every file in it can be read: what one forbids is not forgotten', async (t) => {
  const path = folder(t);
  const other = folder(t);
  for (const each of [path, other]) mkdirSync(each);
  put(path, 'a.yaml', policyText('a'));
  put(other, 'b.yaml', policyText('b'));
  symlinkSync('a.yaml', join(other, 'a.yaml'));
  const { feed, names, troubles } = policies(t, path);
  await until('it is read', () => feed.waitingFor === undefined);
  feed.moveTo(other);
  await until('the file that cannot be read is told', () => troubles().includes('policy/a.yaml CFG-FILE'));
  await setTimeout(300);
  assert.deepEqual([names(), feed.moving], [['a not-selecting'], true]);
  rmSync(join(other, 'a.yaml'));
  put(other, 'a.yaml', policyText('a'));
  await until('it is the one that counts', () => !feed.moving);
  assert.deepEqual(names(), ['a not-selecting', 'b not-selecting']);
  assert.deepEqual(troubles(), []);
});
