import assert from 'node:assert/strict';
import { setTimeout as pause } from 'node:timers/promises';
import type { SessionTiming, StoreEvent } from '../../src/kvstore/session.ts';
import type { PrefixSink, Store, StoreTrouble } from '../../src/kvstore/store.ts';
import type { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';

/** The tables' part of a watched prefix: mark and sweep. Wrong calls are remembered. */
export class Mirror implements PrefixSink {
  readonly content = new Map<string, string>();
  readonly removed: string[] = [];
  readonly faults: string[] = [];
  puts = 0;
  lists = 0;
  #listed: Set<string> | undefined;

  listing(): void {
    this.#listed = new Set();
  }

  put(key: string, value: Buffer): void {
    this.puts++;
    this.content.set(key, value.toString());
    this.#listed?.add(key);
  }

  remove(key: string): void {
    if (this.#listed !== undefined) this.faults.push(`remove of ${key} inside a list`);
    if (!this.content.delete(key)) this.faults.push(`remove of ${key}, which is not there`);
    this.removed.push(key);
  }

  listed(): void {
    const listed = this.#listed;
    if (listed === undefined) {
      this.faults.push('listed without listing');
      return;
    }
    for (const key of this.content.keys()) if (!listed.has(key)) this.content.delete(key);
    this.#listed = undefined;
    this.lists++;
  }

  /** Waits until it shows what the store holds. */
  async matches(etcd: Etcd, prefix: string, timeoutMs = 15_000): Promise<void> {
    const expected = await contentOf(etcd, prefix);
    await until(
      `the mirror of ${prefix} shows the store's ${expected.size} keys`,
      () => this.shows(expected),
      timeoutMs,
    );
    assert.deepEqual(this.faults, []);
  }

  shows(expected: ReadonlyMap<string, string>): boolean {
    if (this.#listed !== undefined || expected.size !== this.content.size) return false;
    for (const [key, value] of expected) if (this.content.get(key) !== value) return false;
    return true;
  }
}

/** What is under a prefix, read with etcd's own client. */
export async function contentOf(etcd: Etcd, prefix: string): Promise<Map<string, string>> {
  const text = await etcd.ctl('get', '--prefix', '-w', 'json', '--', prefix);
  const { kvs = [] } = JSON.parse(text) as { kvs?: { key: string; value?: string }[] };
  const decode = (base64: string | undefined): string => Buffer.from(base64 ?? '', 'base64').toString();
  return new Map(kvs.map(({ key, value }) => [decode(key).slice(prefix.length), decode(value)]));
}

export async function connected(store: Store): Promise<void> {
  await until('the store is connected', () => store.status.state === 'connected', 20_000);
}

/** Waits for a trouble with this code; it is the answer. */
export async function trouble(store: Store, code: string, timeoutMs = 20_000): Promise<StoreTrouble> {
  const find = (): StoreTrouble | undefined => store.status.troubles.find((found) => found.code === code);
  try {
    await until(`a trouble with the code ${code}`, () => find() !== undefined, timeoutMs);
  } catch (error) {
    throw new Error(`${(error as Error).message}; status: ${JSON.stringify(store.status)}`);
  }
  const found = find();
  assert.ok(found);
  assert.ok(found.since <= Date.now() && found.since > Date.now() - 120_000, 'it says since when');
  return found;
}

export async function healthy(store: Store, timeoutMs = 20_000): Promise<void> {
  const fine = (): boolean => store.status.state === 'connected' && store.status.troubles.length === 0;
  await until('the store is connected and without trouble', fine, timeoutMs).catch((error: Error) => {
    throw new Error(`${error.message}; status: ${JSON.stringify(store.status)}`);
  });
}

/** Shorter than in production where a test would only wait; pings stay as they are. */
export const QUICK: Partial<SessionTiming> = {
  connectMs: 2000,
  requestMs: 3000,
  checkMs: 1000,
  checkAfterFailureMs: 500,
  retryMinMs: 50,
  retryMaxMs: 1000,
};

/** Events of a store, for tests that look at them. */
export function recorder(): { events: StoreEvent[]; onEvent: (event: StoreEvent) => void } {
  const events: StoreEvent[] = [];
  return { events, onEvent: (event) => events.push(event) };
}

/**
 * The longest step of the event loop while `work` ran, milliseconds of processor time: what other processes take from this
 * one does not count.
 */
export async function longestStep(work: () => Promise<void>): Promise<number> {
  let longest = 0;
  let over = false;
  const watch = (async () => {
    while (!over) {
      const before = process.threadCpuUsage();
      await pause(1);
      const { user, system } = process.threadCpuUsage(before);
      longest = Math.max(longest, (user + system) / 1000);
    }
  })();
  await work();
  over = true;
  await watch;
  return longest;
}
