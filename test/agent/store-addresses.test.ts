import assert from 'node:assert/strict';
import { test } from 'node:test';
import { StoreAddresses } from '../../src/agent/store-addresses.ts';
import { formatAddress } from '../../src/core/ip.ts';

/** Store addresses with name servers and a clock of our own. */
function lab() {
  const names = new Map<string, readonly string[]>();
  const silent = new Map<string, () => void>();
  const state = { now: 0, changes: 0, asked: [] as string[], running: 0, most: 0 };
  const stores = new StoreAddresses({
    onChange: () => state.changes++,
    now: () => state.now,
    resolve: async (host) => {
      state.asked.push(host);
      state.most = Math.max(state.most, ++state.running);
      if (host.startsWith('silent')) await new Promise<void>((resolve) => silent.set(host, resolve));
      state.running--;
      const found = names.get(host);
      if (found === undefined) throw new Error('ENOTFOUND');
      return found;
    },
  });
  const list = (): string[] => stores.list().map(({ address, port }) => `${formatAddress(address)} ${port}`);
  return { stores, names, silent, state, list };
}

test('endpoints become sorted addresses and ports; what makes no sense is left out', async () => {
  let changes = 0;
  const stores = new StoreAddresses({ onChange: () => changes++ });
  await stores.set([
    'https://10.0.0.2:2379',
    'http://[fd00::1]:2380',
    'https://10.0.0.2:2379',
    'https://10.0.0.1',
    '10.0.0.3:2379',
    'http://localhost:9999',
    'not a url',
  ]);
  const texts = stores.list().map(({ address, port }) => `${formatAddress(address)} ${port}`);
  assert.deepEqual(
    texts.filter((text) => !text.endsWith('9999')),
    ['10.0.0.1 443', '10.0.0.2 2379', '10.0.0.3 2379', 'fd00::1 2380'],
  );
  // The resolver of the system, and /etc/hosts.
  assert.ok(texts.includes('127.0.0.1 9999') || texts.includes('::1 9999'), texts.join());
  const told = changes;
  await stores.refresh();
  assert.equal(changes, told, 'nothing changed, nothing is told');
  await stores.set(['https://name.invalid:2379']);
  assert.deepEqual(stores.list(), []);
});

test('a name that stops resolving keeps its addresses; one that is no longer an endpoint loses them', async () => {
  const { stores, names, state, list } = lab();
  names.set('hub.example', ['192.0.2.5']);
  await stores.set(['https://hub.example:2379']);
  names.delete('hub.example');
  state.now += 9e9;
  await stores.refresh();
  assert.deepEqual(list(), ['192.0.2.5 2379']);
  await stores.set(['https://other.example:2379']);
  assert.deepEqual(list(), []);
  await stores.set(['https://hub.example:2379']);
  assert.deepEqual(list(), [], 'nothing is kept of names that are gone');
});

test('a load balancer that tells a few of its addresses at a time does not take away the one that is in use', async () => {
  const { stores, names, state, list } = lab();
  names.set('hub.example', ['192.0.2.1']);
  await stores.set(['https://hub.example:2379']);
  for (let i = 2; i <= 4; i++) {
    names.set('hub.example', [`192.0.2.${i}`]);
    state.now += 30_000;
    await stores.refresh();
  }
  assert.deepEqual(list(), ['192.0.2.1 2379', '192.0.2.2 2379', '192.0.2.3 2379', '192.0.2.4 2379']);
  state.now += 3_700_000;
  await stores.refresh();
  assert.deepEqual(list(), ['192.0.2.4 2379'], 'what was not seen for an hour goes');
});

test('a name that resolves to ever new addresses is held within bounds, the newest first', async () => {
  const { stores, names, list } = lab();
  names.set('hub.example', ['192.0.2.5']);
  await stores.set(['https://hub.example:2379']);
  for (let i = 0; i < 20; i++) {
    names.set(
      'hub.example',
      Array.from({ length: 100 }, (_, j) => `10.0.${i}.${j}`),
    );
    await stores.refresh();
  }
  assert.equal(list().length, 256);
  assert.ok(list().includes('10.0.19.99 2379'));
});

test('names without an answer hold up neither the others nor the threads, and are asked for once at a time', async () => {
  const { stores, names, silent, state, list } = lab();
  names.set('good.example', ['192.0.2.7']);
  names.set('silent-0.example', ['192.0.2.8']);
  const endpoints = ['silent-0.example', 'good.example', 'silent-1.example', 'silent-2.example'];
  const done = stores.set(endpoints.map((host) => `https://${host}:2379`));
  while (list().length === 0) await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(list(), ['192.0.2.7 2379']);
  for (let i = 0; i < 50; i++) {
    state.now += 3000;
    void stores.set(endpoints.map((host) => `https://${host}:2379`));
  }
  assert.equal(state.most, 2);
  assert.equal(state.asked.filter((host) => host === 'silent-0.example').length, 1);
  for (const host of ['silent-0.example', 'silent-1.example', 'silent-2.example']) {
    while (!silent.has(host)) await new Promise((resolve) => setImmediate(resolve));
    silent.get(host)?.();
  }
  // What was asked for meanwhile in turn: the quick name.
  await done;
  assert.deepEqual(list(), ['192.0.2.7 2379', '192.0.2.8 2379']);
});

test('a store that fails ten times a second does not ask the name server ten times a second', async () => {
  const { stores, names, state } = lab();
  names.set('hub.example', ['192.0.2.5']);
  for (let i = 0; i < 100; i++) {
    await stores.set(['https://hub.example:2379']);
    state.now += 100;
  }
  assert.equal(state.asked.length, 5);
  assert.equal(state.changes, 1);
});

test('the end does not wait for a name server that does not answer', async () => {
  const { stores } = lab();
  void stores.set(['https://silent.example:2379']);
  const abort = new AbortController();
  const running = stores.run(abort.signal);
  abort.abort();
  await running;
});
