import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { decodeShort } from '../../src/kvstore/messages.ts';
import { openStore } from '../../src/kvstore/session.ts';
import { DEFAULT_TIMING, Transport } from '../../src/kvstore/transport.ts';
import { WireWriter } from '../../src/kvstore/wire.ts';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { TcpProxy } from '../lab/proxy.ts';
import { longestStep, Mirror, QUICK } from './mirror.ts';

let etcd: Etcd;
before(async () => {
  etcd = await Etcd.start();
});
after(() => etcd.close());

const CHANGES = 100_000;
const KEYS = 5000;
const PER_TRANSACTION = 100;

/** Writes the changes in transactions: the fastest way into etcd. Value i goes to key i modulo the number of keys. */
async function flood(prefix: string): Promise<void> {
  const options = { endpoints: etcd.endpoints };
  const transport = await Transport.connect(
    etcd.endpoints[0] ?? '',
    options,
    DEFAULT_TIMING,
    new AbortController().signal,
  );
  let next = 0;
  const write = async (): Promise<void> => {
    while (next < CHANGES) {
      const transaction = new WireWriter();
      for (const end = next + PER_TRANSACTION; next < end; next++) {
        const put = new WireWriter().bytes(1, `${prefix}${next % KEYS}`).bytes(2, String(next).padEnd(100, '.'));
        transaction.message(2, new WireWriter().message(2, put));
      }
      await transport.request('KV/Txn', transaction.finish(), decodeShort);
    }
  };
  // One after the other for each key: two writers at most work on different keys.
  await Promise.all([write(), write()]);
  transport.close();
}

test('a flood of 100,000 changes is taken whole while it comes, and the event loop stays free', async () => {
  const store = openStore({ etcd: async () => ({ endpoints: etcd.endpoints }) });
  const mirror = new Mirror();
  const watch = store.watchPrefix('flood/', mirror);
  try {
    await until('it is synced', () => watch.synced);
    const blocked = await longestStep(async () => {
      await flood('flood/');
      await until('all changes were seen', () => mirror.puts >= CHANGES, 60_000);
    });
    await mirror.matches(etcd, 'flood/');
    assert.equal(mirror.puts, CHANGES);
    assert.equal(watch.lists, 1);
    // The bar is 50 ms; a slow machine may take more.
    assert.ok(blocked < 250, `blocked for ${Math.round(blocked)} ms`);
  } finally {
    await store.close();
  }
});

test('a flood that comes while it is away is taken whole afterwards, in bounded memory', async () => {
  const proxy = await TcpProxy.start(etcd.endpoints[0] ?? '');
  const store = openStore({ etcd: async () => ({ endpoints: [proxy.endpoint] }), timing: QUICK });
  const mirror = new Mirror();
  const watch = store.watchPrefix('backlog/', mirror);
  try {
    await until('it is synced', () => watch.synced);
    proxy.refuse();
    await until('it is away', () => store.status.state !== 'connected');
    await flood('backlog/');
    const before = process.memoryUsage().rss;
    proxy.heal();
    const blocked = await longestStep(() => until('all was seen', () => mirror.puts >= CHANGES, 60_000));
    await mirror.matches(etcd, 'backlog/');
    assert.equal(mirror.puts, CHANGES);
    assert.equal(watch.lists, 1);
    assert.ok(blocked < 250, `blocked for ${Math.round(blocked)} ms`);
    const growth = process.memoryUsage().rss - before;
    assert.ok(growth < 150 << 20, `grew by ${growth >> 20} MB`);
  } finally {
    await store.close();
    await proxy.close();
  }
});
