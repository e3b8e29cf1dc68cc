import assert from 'node:assert/strict';
import { Writable } from 'node:stream';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { streamList } from '../../src/api/stream-list.ts';
import { identity } from '../../src/core/identity.ts';
import type { ClusterService } from '../../src/kvstore/codec/service.ts';
import { claim, nodeFact, putIdentity, putNode } from './facts.ts';
import { idleAgent } from './idle-agent.ts';

test('every kind of fact has its record', async (t) => {
  const { agent, api } = await idleAgent(t);
  const { tables } = agent;
  putIdentity(tables, 66_000, ['k8s:app=frontend'], 'b');
  putNode(tables, nodeFact('b/one', ['203.0.113.7', '2001:db8::7'], ['10.1.0.0/24', '2001:db8:1::/64']));
  claim(tables, '10.1.0.5', { id: 66_000, host: '203.0.113.7', cluster: 'b', source: 'clustermesh' });
  claim(tables, '10.1.0.5', { id: 66_001, cluster: 'c', source: 'clustermesh' });
  claim(tables, '10.7.0.0/16', { id: 66_000, cluster: 'b', source: 'clustermesh' });
  const service: ClusterService = {
    cluster: 'b',
    namespace: 'shop',
    name: 'web',
    shared: true,
    includeExternal: true,
    frontends: new Map([['2001:db8::80', [{ name: 'http', protocol: 'TCP', port: 80 }]]]),
    backends: new Map([['10.1.0.5', [{ name: 'http', protocol: 'TCP', port: 8080 }]]]),
  } as unknown as ClusterService;
  tables.services.put(tables.origins.of('b', 'clustermesh'), 1, 'b/shop/web', service);

  assert.deepEqual(
    [...api.nodes()],
    [
      {
        name: 'one',
        cluster: 'b',
        ipv4: '203.0.113.7',
        ipv4Range: '10.1.0.0/24',
        ipv6: '2001:db8::7',
        ipv6Range: '2001:db8:1::/64',
        source: 'clustermesh',
      },
    ],
  );
  assert.deepEqual(
    [...api.services()],
    [
      {
        cluster: 'b',
        namespace: 'shop',
        name: 'web',
        shared: true,
        global: true,
        frontends: ['[2001:db8::80]:80/TCP'],
        backends: ['10.1.0.5:8080/TCP'],
      },
    ],
  );
  const contested = {
    prefix: '10.1.0.5/32',
    identity: 66_000,
    labels: ['k8s:app=frontend'],
    tunnelEndpoint: '203.0.113.7',
    source: 'clustermesh',
    cluster: 'b',
    others: [{ cluster: 'c', source: 'clustermesh', identity: 66_001 }],
  };
  assert.deepEqual(
    [...api.ipcache()].map(({ prefix }) => prefix),
    ['10.7.0.0/16', '10.1.0.5/32', '0.0.0.0/0', '::/0'],
  );
  assert.deepEqual(api.ipcacheGet('10.1.0.5'), contested);
  assert.equal(api.ipcacheGet('10.7.9.9')?.prefix, '10.7.0.0/16');
  assert.deepEqual([api.ipcacheGet('192.0.2.1')?.identity, api.ipcacheGet('nonsense')], [2, undefined]);
  assert.deepEqual(api.identity(66_000), { id: 66_000, cluster: 'b', labels: ['k8s:app=frontend'], addresses: 2 });
  assert.equal(api.identity(99_999), undefined);
  const identities = [...api.identities()].filter((record) => record !== undefined);
  assert.deepEqual(
    identities.find(({ id }) => id === 66_000),
    api.identity(66_000),
  );
  assert.ok(identities.some(({ id, labels }) => id === 1 && labels.includes('reserved:host')));
  const endpoints = (filter: Parameters<typeof api.endpoints>[0]) =>
    [...api.endpoints(filter)].filter((record) => record !== undefined).map(({ ipv4, name }) => ipv4 ?? name);
  assert.deepEqual(endpoints({ all: false }), ['my-vm']);
  assert.deepEqual(endpoints({ all: true }), ['my-vm', '10.7.0.0/16', '10.1.0.5']);
  assert.deepEqual(endpoints({ all: true, cluster: 'b' }), ['10.7.0.0/16', '10.1.0.5']);
  assert.deepEqual(endpoints({ all: false, selector: 'app=frontend' }), ['10.7.0.0/16', '10.1.0.5']);
  assert.deepEqual(endpoints({ all: true, cluster: 'nobody' }), []);
  const status = api.status();
  assert.deepEqual(status.counts, {
    nodes: 1,
    endpoints: 0,
    identities: 1,
    services: 1,
    globalServices: 1,
    ipcache: 2,
    quarantined: 0,
  });
  assert.equal(status.state, 'not-joined');
});

test('a list goes on while its table changes: what stays is told once, what is gone is not told', async (t) => {
  const { agent, api } = await idleAgent(t);
  for (let i = 0; i < 1000; i++) claim(agent.tables, `10.0.${i >> 8}.${i & 255}`, { id: 66_000 });
  const seen = new Map<string, number>();
  let at = 0;
  for (const { prefix } of api.ipcache()) {
    seen.set(prefix, (seen.get(prefix) ?? 0) + 1);
    // Half of what is still to come goes, and as much comes.
    const index = 999 - at++;
    if (index <= 500) continue;
    const { ipcache, origins } = agent.tables;
    const words = [(0x0a00_0000 | index) >>> 0];
    ipcache.withdraw(origins.of('a', 'kvstore'), { family: 4, words }, undefined);
    claim(agent.tables, `10.9.${index >> 8}.${index & 255}`, { id: identity(66_001) });
  }
  assert.ok([...seen.values()].every((count) => count === 1));
  for (let i = 0; i <= 500; i++) assert.ok(seen.has(`10.0.${i >> 8}.${i & 255}/32`));
});

/** The longest time that the event loop was held, milliseconds. */
async function longestHold(work: () => Promise<void>): Promise<number> {
  let held = 0;
  let last = performance.now();
  const measure = (): void => {
    const now = performance.now();
    held = Math.max(held, now - last);
    last = now;
  };
  await meanwhile(measure, work);
  return held;
}

/**
 * The most memory that was held in between, bytes. The garbage is collected before each look: how much of it lies around at
 * any moment, and so what the process has of the kernel, is up to the engine and differs by 150 MB from run to run.
 */
async function mostHeld(work: () => Promise<void>): Promise<number> {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const used = (): number => {
    collect();
    const { heapUsed, external } = process.memoryUsage();
    return heapUsed + external;
  };
  const before = used();
  let most = 0;
  let looked = Number.NEGATIVE_INFINITY;
  const look = (): void => {
    if (performance.now() - looked < 100) return;
    most = Math.max(most, used());
    looked = performance.now();
  };
  await meanwhile(look, work);
  return most - before;
}

/** Calls it at each turn of the event loop until the work is done. */
async function meanwhile(look: () => void, work: () => Promise<void>): Promise<void> {
  let running = true;
  const turn = (): void => {
    look();
    if (running) setImmediate(turn);
  };
  setImmediate(turn);
  await work();
  running = false;
}

test('lists of a million addresses hold neither the event loop nor memory, also where nothing matches', async (t) => {
  const { agent, api } = await idleAgent(t);
  const count = 1_000_000;
  const origin = agent.tables.origins.of('b', 'clustermesh');
  for (let i = 0; i < count; i++) {
    agent.tables.ipcache.claim(origin, 1, {
      address: { family: 4, words: [(0x0a00_0000 + i) >>> 0] },
      bits: undefined,
      identity: 66_000 + (i % 1000),
      tunnelEndpoint: undefined,
    });
  }
  let lines = 0;
  const reader = () =>
    new Writable({
      write(chunk: Buffer, _encoding, done) {
        for (const byte of chunk) if (byte === 10) lines++;
        setImmediate(done);
      },
    });
  const identities = [...api.identities()].filter((record) => record !== undefined).length;
  const lists: readonly [() => Iterable<object | undefined>, number][] = [
    [() => api.ipcache(), count + 2],
    [() => api.endpoints({ all: true, cluster: 'nobody' }), 0],
    [() => api.endpoints({ all: true, selector: 'app=nothing' }), 0],
    [() => api.identities(), identities],
  ];
  for (const [list, expected] of lists) {
    const stream = async (): Promise<void> => {
      lines = 0;
      await streamList({ records: list(), filter: () => true, to: reader(), stallMs: 10_000 });
      assert.equal(lines, expected);
    };
    const held = await longestHold(stream);
    const kept = await mostHeld(stream);
    // Some 10 ms by itself; a machine that is busy otherwise takes its share.
    t.diagnostic(`${expected} records: held for ${held.toFixed(0)} ms, ${(kept / (1 << 20)).toFixed(1)} MB kept`);
    assert.ok(held < 250, `held for ${held} ms`);
    // All records at once would be a gigabyte.
    assert.ok(kept < 32 << 20, `${kept} bytes kept`);
  }
});

test('status costs little with big tables', async (t) => {
  const { agent, api } = await idleAgent(t);
  const { tables, repository } = agent;
  for (let i = 0; i < 20_000; i++) putIdentity(tables, 66_000 + i, [`k8s:app=a${i}`], 'b');
  for (let i = 0; i < 5000; i++) putNode(tables, nodeFact(`b/n${i}`, [`203.0.${i >> 8}.${i & 255}`]));
  for (let i = 0; i < 2000; i++) {
    const spec = { endpointSelector: {}, ingress: [{ fromEntities: ['world'] }] };
    const metadata = { name: `p${i}`, namespace: 'production' };
    const object = { apiVersion: 'cilium.io/v2', kind: 'CiliumNetworkPolicy', metadata, spec };
    repository.put('directory', `p${i}.yaml`, JSON.stringify(object));
  }
  for (let i = 0; i < 2000; i++) tables.quarantine.refuse('b', `key-${i}`, 'no JSON');
  api.status();
  const before = process.cpuUsage();
  for (let i = 0; i < 10; i++) api.status();
  const { user, system } = process.cpuUsage(before);
  t.diagnostic(`${((user + system) / 10_000).toFixed(1)} ms each`);
  assert.ok(user + system < 1_000_000, `${(user + system) / 10_000} ms each`);
});
