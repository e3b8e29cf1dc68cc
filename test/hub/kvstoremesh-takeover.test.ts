import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, test } from 'node:test';
import { decodeRange, prefixEnd } from '../../src/kvstore/messages.ts';
import { WireWriter } from '../../src/kvstore/wire.ts';
import { publishMany } from '../lab/bulk.ts';
import { until } from '../lab/namespace.ts';
import { TcpProxy } from '../lab/proxy.ts';
import { Following, Opened, openTestStore } from '../mesh/following.ts';
import { announcementsOf, CacheLab, expectedCache, furnish } from './cache-lab.ts';

const WORKER = join(import.meta.dirname, 'cache-hub.ts');
const CANARY = 'cilium/synced/alpha/cilium/cache/ip/v1';

let lab: CacheLab;
const closers: (() => unknown)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
  await lab.close();
});

function hub(): ChildProcess {
  const folder = mkdtempSync(join(tmpdir(), 'mesh-hub-'));
  const args = ['--pdeathsig', 'KILL', process.execPath, WORKER, lab.etcd.endpoints[0] ?? '', folder];
  const child = spawn('setpriv', args, { stdio: ['ignore', 'pipe', 'inherit'] });
  closers.push(() => {
    child.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  });
  return child;
}

async function count(prefix: string): Promise<number> {
  const message = new WireWriter().bytes(1, prefix).bytes(2, prefixEnd(prefix)).bool(9, true);
  return (await lab.store.session.request('KV/Range', message.finish(), decodeRange)).count;
}

test('a leader that is killed in the middle of 100,000 keys is followed by one that goes on, and writes nothing twice', async () => {
  lab = await CacheLab.start();
  const source = await lab.source();
  const alpha = lab.cluster(source, { name: 'alpha', id: 7, heartbeatMs: 1000 });
  await publishMany(alpha.store, { cluster: 'alpha', id: 7, addresses: 100_000, identities: 500 });
  await alpha.publish();
  await lab.connect('alpha', source.endpoints);
  const first = hub();
  await until('it is in the middle', async () => (await count('cilium/cache/ip/v1/alpha/')) > 20_000, 30_000);
  first.kill('SIGKILL');
  const before = await lab.store.readPrefix('cilium/cache/ip/v1/alpha/');
  assert(before.entries.length < 100_000, 'it was in the middle');
  assert.equal(await lab.store.get(CANARY), undefined, 'nothing says that it is complete');
  const began = performance.now();
  hub();
  await until('all is copied', async () => (await lab.store.get(CANARY)) !== undefined, 60_000);
  const seconds = (performance.now() - began) / 1000;
  const after = await lab.store.readPrefix('cilium/cache/ip/v1/alpha/');
  assert.equal(after.entries.length, 100_000);
  const revisions = new Map(after.entries.map(({ key, modRevision }) => [key, modRevision]));
  const again = before.entries.filter(({ key, modRevision }) => revisions.get(key) !== modRevision);
  assert.equal(again.length, 0, 'what was there and equal is not written again');
  assert(seconds < 40, `it took ${seconds} s`);
});

test('a leader that was stopped for a while writes nothing when it wakes up beside another one', async () => {
  lab = await CacheLab.start();
  const source = await lab.source();
  const alpha = lab.cluster(source, { name: 'alpha', id: 7 });
  await furnish(alpha, '7');
  await alpha.publish();
  await lab.connect('alpha', source.endpoints);
  const first = hub();
  const present = (ip: string): Promise<boolean> =>
    lab.store.get(`cilium/cache/ip/v1/alpha/${ip}`).then((found) => found !== undefined);
  await until('it is copied', () => present('10.7.0.5'), 20_000);
  // Its own child: the process that copies is the one that `setpriv` became.
  first.kill('SIGSTOP');
  hub();
  const leader = async (): Promise<string> => String((await lab.store.get('mesh-agent/v1/leader'))?.value);
  await until(
    'another one leads',
    async () => /hub-/.test(await leader()) && !(await leader()).includes(`hub-${first.pid}"`),
    20_000,
  );
  await alpha.pod({ name: 'p', namespace: 'default', labels: { app: 'p' }, addresses: ['10.7.0.50'] });
  await until('it copies', () => present('10.7.0.50'), 20_000);
  await alpha.removePod('p');
  await until('and removes', async () => !(await present('10.7.0.50')), 20_000);
  const revision = await lab.etcd.revision();
  first.kill('SIGCONT');
  await alpha.pod({ name: 'q', namespace: 'default', labels: { app: 'p' }, addresses: ['10.7.0.51'] });
  await until('the new leader goes on', () => present('10.7.0.51'), 20_000);
  assert.equal(await present('10.7.0.50'), false);
  const written = (await lab.store.readPrefix('cilium/')).entries.filter(({ modRevision }) => modRevision > revision);
  assert.deepEqual(
    written.map(({ key }) => key),
    ['cache/ip/v1/alpha/10.7.0.51'],
  );
});

test('when the source is away at a takeover, the cache lives on: its leases are kept', async () => {
  lab = await CacheLab.start({ timing: { leaseSeconds: 3 } });
  const source = await lab.source();
  const alpha = lab.cluster(source, { name: 'alpha', id: 7 });
  await furnish(alpha, '7');
  await alpha.publish();
  await lab.connect('alpha', source.endpoints);
  const mesh = await lab.lead();
  await lab.ready(mesh, 'alpha');
  const before = await lab.cache();
  await source.kill();
  await mesh.stop();
  await lab.lead();
  const end = Date.now() + 8000;
  while (Date.now() < end) {
    assert.deepEqual(await lab.cache(), before);
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
});

test('a slow store of ours is written in the end, and a busy cluster holds up no other', async () => {
  lab = await CacheLab.start();
  const [one, two] = [await lab.source(), await lab.source()];
  const busy = lab.cluster(one, { name: 'busy', id: 7 });
  await publishMany(busy.store, { cluster: 'busy', id: 7, addresses: 10_000 });
  await busy.publish();
  const calm = lab.cluster(two, { name: 'calm', id: 8 });
  await furnish(calm, '8');
  await calm.publish();
  await lab.connect('busy', one.endpoints);
  await lab.connect('calm', two.endpoints);
  const proxy = await TcpProxy.start(lab.etcd.endpoints[0] ?? '');
  proxy.latencyMs = 60;
  closers.push(() => proxy.close());
  const mesh = await lab.lead({ endpoint: proxy.endpoint });
  await lab.ready(mesh, 'calm');
  const state = mesh.clusters.find(({ document }) => document.name === 'busy');
  assert.equal(state?.cluster.ready, false, 'the calm one did not wait for the busy one');
  await lab.ready(mesh, 'busy');
  assert.equal(await count('cilium/cache/ip/v1/busy/'), 10_000);
});

test('those who read caches see what those see who read the clusters themselves', async () => {
  lab = await CacheLab.start();
  const names = ['alpha', 'beta'];
  const opened = new Opened();
  closers.push(() => opened.close());
  const hubCluster = lab.cluster(lab.etcd, { name: 'vms', id: 100 });
  await hubCluster.publish();
  const sources = [await lab.source(), await lab.source()];
  const clusters = [];
  for (const [index, name] of names.entries()) {
    const etcd = sources[index] ?? assert.fail();
    const cluster = lab.cluster(etcd, { name, id: 7 + index });
    clusters.push(cluster);
    await furnish(cluster, String(7 + index));
    await cluster.publish();
    await lab.connect(name, etcd.endpoints);
  }
  const mesh = await lab.lead();
  await lab.ready(mesh, ...names);
  const machine = new Following(opened);
  machine.mesh.join(opened.add(openTestStore(lab.etcd)), { name: 'vms', id: 100 });
  const follows = (name: string): boolean =>
    machine.mesh.list().some(({ cluster }) => cluster.name === name && cluster.kind === 'cached' && cluster.ready);
  await until('the machine follows both', () => names.every(follows));
  const { tables } = machine;
  assert.deepEqual(
    [tables.nodes.size, tables.identities.size, tables.ipcache.size, tables.services.size],
    [2, 4, 12, 2],
  );
  assert.deepEqual(machine.refused, []);
  await clusters[0]?.removePod('web-1');
  await until('a change arrives', () => tables.ipcache.size === 10);
  await lab.disconnect('beta');
  await until('a cluster that is disconnected goes', () => tables.nodes.size === 1 && tables.ipcache.size === 4);
  const cache = await lab.cache();
  for (const [key, value] of await expectedCache(sources[0] ?? assert.fail(), 'alpha'))
    assert.equal(cache.get(key), value);
  for (const key of announcementsOf('alpha')) assert(cache.has(key), key);
});
