import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { encodeWatchCreate } from '../../src/kvstore/messages.ts';
import { Target } from '../../src/kvstore/prefix.ts';
import { openStore } from '../../src/kvstore/session.ts';
import type { PrefixWatch, Store } from '../../src/kvstore/store.ts';
import { DEFAULT_TIMING, Transport } from '../../src/kvstore/transport.ts';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { TcpProxy } from '../lab/proxy.ts';
import { StoreClient } from '../lab/store-client.ts';
import { Mirror, QUICK } from './mirror.ts';

let etcd: Etcd;
before(async () => {
  etcd = await Etcd.start();
});
after(() => etcd.close());

const KEYS = 50_000;
/** So long each value occupies its consumer, milliseconds: a slice of the event loop has room for 400 of them. */
const PUT_MS = 0.02;

/** A consumer that takes its time, and knows how much it was given without a break. */
class SlowMirror extends Mirror {
  /** Of every value that came, in order. */
  readonly revisions: number[] = [];
  readonly #onPut: (puts: number) => void;

  constructor(onPut: (puts: number) => void = () => {}) {
    super();
    this.#onPut = onPut;
  }

  override put(key: string, value: Buffer, modRevision = 0): void {
    super.put(key, value);
    this.revisions.push(modRevision);
    for (const end = performance.now() + PUT_MS; performance.now() < end; );
    this.#onPut(this.puts);
  }

  inOrder(): boolean {
    return this.revisions.every((revision, index) => index === 0 || revision >= (this.revisions[index - 1] ?? 0));
  }
}

/** Changes all keys, in transactions of 125, so that each revision has many of them. */
async function burst(prefix: string, round: string, from = 0): Promise<void> {
  const writer = new StoreClient({ endpoints: etcd.endpoints });
  for (let next = from; next < KEYS; next += 125)
    await writer.putAll(Array.from({ length: 125 }, (_, i) => [`${prefix}${next + i}`, round] as const));
  await writer.close();
}

interface Followed {
  readonly store: Store;
  readonly watch: PrefixWatch;
}

/** Follows a prefix through a proxy, is cut off while there is a burst, and comes back to all of it at once. */
async function behind(prefix: string, mirrors: readonly Mirror[]) {
  const proxy = await TcpProxy.start(etcd.endpoints[0] ?? '');
  const followed = mirrors.map((mirror): Followed => {
    const store = openStore({ etcd: async () => ({ endpoints: [proxy.endpoint] }), timing: QUICK });
    return { store, watch: store.watchPrefix(prefix, mirror) };
  });
  await until('they are synced', () => followed.every(({ watch }) => watch.synced));
  proxy.refuse();
  await until('they are away', () => followed.every(({ store }) => store.status.state !== 'connected'));
  await burst(prefix, 'new');
  proxy.heal();
  const close = async (): Promise<void> => {
    await Promise.all(followed.map(({ store }) => store.close()));
    await proxy.close();
  };
  return { proxy, followed, close };
}

test('a burst that comes at once is taken whole and in order, while other work gets its turn', async () => {
  // Together: each of them alone would be given too much by three, if they did not know of each other.
  let inTurn = 0;
  let most = 0;
  const mirrors = Array.from({ length: 3 }, () => new SlowMirror(() => inTurn++));
  const { followed, close } = await behind('burst/', mirrors);
  try {
    const complete = (): boolean => mirrors.every(({ puts }) => puts >= KEYS);
    for (const late = Date.now() + 60_000; !complete() && Date.now() < late; await nextTurn()) {
      most = Math.max(most, inTurn);
      inTurn = 0;
    }
    for (const mirror of mirrors) {
      await mirror.matches(etcd, 'burst/');
      assert.equal(mirror.puts, KEYS);
      assert.ok(mirror.inOrder());
    }
    for (const { watch } of followed) assert.equal(watch.lists, 1);
    // One slice before this loop is called, and one after it, in the same turn.
    assert.ok(most <= 820, `${most} values were taken in one turn`);
  } finally {
    await close();
  }
});

test('a watch that is closed in the middle of an answer is told nothing more, the other one everything', async () => {
  const other = new SlowMirror();
  const mirror = new SlowMirror((puts) => {
    if (puts === 1000) setImmediate(() => closing?.close());
  });
  let closing: PrefixWatch | undefined;
  const { followed, close } = await behind('half/', [other]);
  try {
    const store = followed[0]?.store as Store;
    closing = store.watchPrefix('half/', mirror);
    await until('the other has all', () => other.puts >= KEYS, 60_000);
    await burst('half/', 'newer', KEYS - 5000);
    await until('and what came later', () => other.puts >= KEYS + 5000, 30_000);
    await other.matches(etcd, 'half/');
    assert.ok(mirror.puts >= 1000 && mirror.puts <= 1820, `${mirror.puts} values after it was closed`);
    assert.equal(mirror.lists, 0);
  } finally {
    await close();
  }
});

test('connections that break in the middle of an answer lose nothing, list nothing again and never go back', async () => {
  let cut = (): void => {};
  const mirror = new SlowMirror((puts) => {
    if (puts % 7000 === 0) setImmediate(cut);
  });
  const { proxy, followed, close } = await behind('broken/', [mirror]);
  try {
    cut = () => proxy.cut();
    await until('all has come', () => mirror.content.size === KEYS, 60_000);
    await mirror.matches(etcd, 'broken/');
    assert.ok((followed[0]?.store.status.reconnections ?? 0) > 3);
    assert.equal(followed[0]?.watch.lists, 1);
    assert.ok(mirror.inOrder(), 'only what is not complete comes again');
    // Of each break: what was taken of a revision of 125 keys.
    assert.ok(mirror.puts < KEYS + 125 * 10, `${mirror.puts} values for ${KEYS} keys`);
  } finally {
    await close();
  }
});

test('a store that loses its data in the middle of an answer is listed again, and nothing of the old one is left', async () => {
  let lose = (): void => {};
  const mirror = new SlowMirror((puts) => {
    if (puts === 2000) lose();
  });
  const lost = Promise.withResolvers<void>();
  lose = () => etcd.reset().then(lost.resolve, lost.reject);
  const { followed, close } = await behind('lost/', [mirror]);
  try {
    await lost.promise;
    await etcd.put('lost/only', 'this');
    await until('it is listed again', () => (followed[0]?.watch.lists ?? 0) > 1, 30_000);
    await mirror.matches(etcd, 'lost/');
    assert.deepEqual([...mirror.content], [['only', 'this']]);
  } finally {
    await close();
  }
});

test('a reader that has not taken an answer is not sent the next: the store keeps it', async () => {
  await burst('paced/', 'one', KEYS - 10_000);
  const endpoint = etcd.endpoints[0] ?? '';
  const options = { endpoints: etcd.endpoints };
  const transport = await Transport.connect(endpoint, options, DEFAULT_TIMING, new AbortController().signal);
  try {
    const { stream, taken } = transport.watchStream();
    let answers = 0;
    stream.on('data', () => answers++);
    stream.on('error', () => {});
    stream.write(encodeWatchCreate(1, new Target('paced/', false), 1));
    await until('the first answer', () => answers === 1);
    await new Promise((resolve) => setTimeout(resolve, 500));
    assert.equal(answers, 1);
    taken();
    await until('the second answer', () => answers === 2);
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.equal(answers, 2);
  } finally {
    transport.close();
  }
});
