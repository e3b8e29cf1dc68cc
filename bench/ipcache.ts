import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { parseAddress } from '../src/core/ip.ts';
import { factPrefix } from '../src/kvstore/paths.ts';
import { drainFacts, FactSink, type FollowedCluster } from '../src/mesh/fact-sinks.ts';
import { Tables } from '../src/mesh/tables.ts';
import { bulkAddress, bulkHost, bulkIdentity } from '../test/lab/bulk.ts';
import { addressValue } from '../test/lab/values.ts';
import type { Row } from './row.ts';

const COUNT = 1_000_000;
/** Values between two looks at the clock. */
const STEP = 100;
const CLUSTER: FollowedCluster = { name: 'bench', id: 1, max: 255, joined: true };
setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;
const prefixOf = (kind: Parameters<typeof factPrefix>[0]): string => factPrefix(kind, CLUSTER.name, 'direct');

/** Made when they are used: a million values beside the tables would be the garbage collector's work, not theirs. */
type Entries = (index: number) => readonly [key: string, value: Buffer];

/** A million addresses in memory: what a list costs, what is left of it, and how long the event loop is held. */
export async function run(): Promise<Row[]> {
  const [four, six] = [addresses(bulkAddress), addresses(address6)];
  return [...(await measure('IPv4', four)), ...(await measure('IPv6', six)), ...contested(four)];
}

async function measure(family: string, entries: Entries): Promise<Row[]> {
  const before = memory();
  const tables = new Tables(() => {});
  const sink = new FactSink(tables, CLUSTER, { kind: 'endpoints', prefix: prefixOf('endpoints'), onListed() {} });
  const first = list(sink, entries);
  const held = memory() - before;
  const again = list(sink, entries);
  const found = lookups(tables, entries);
  list(sink, entries, { stride: 2, end: false });
  const half = await loopWhile(
    () => sink.listed(),
    () => tables.ipcache.size === COUNT / 2,
  );
  list(sink, entries);
  const all = await loopWhile(
    () => drainFacts(tables, CLUSTER, prefixOf),
    () => tables.ipcache.size === 0,
  );
  return [
    { name: `${family}: 1,000,000 values decoded and claimed`, value: first.ms, unit: 'ms', bar: '< 2500' },
    { name: `${family}: longest step of 100 values`, value: first.longest, unit: 'ms', bar: '< 50' },
    { name: `${family}: the same list again`, value: again.ms, unit: 'ms', bar: '< 2500' },
    { name: `${family}: memory of 1,000,000 addresses`, value: held, unit: 'MB', bar: '< 120' },
    { name: `${family}: a lookup`, value: found, unit: 'µs', bar: '< 5' },
    { name: `${family}: sweep of 1,000,000 of which half vanished`, value: half.ms, unit: 'ms', bar: '< 200' },
    { name: `${family}: event loop held meanwhile`, value: half.longest, unit: 'ms', bar: '< 50' },
    { name: `${family}: the cluster goes with 1,000,000 addresses`, value: all.ms, unit: 'ms', bar: '< 500' },
    { name: `${family}: event loop held meanwhile, again`, value: all.longest, unit: 'ms', bar: '< 50' },
  ];
}

/** Two clusters claim the same million addresses. */
function contested(entries: Entries): Row[] {
  const tables = new Tables(() => {});
  const before = memory();
  for (const cluster of [CLUSTER, { ...CLUSTER, name: 'other', joined: false }]) {
    const sink = new FactSink(tables, cluster, { kind: 'endpoints', prefix: prefixOf('endpoints'), onListed() {} });
    list(sink, entries);
  }
  const held = memory() - before;
  const began = clock();
  if (tables.ipcache.conflicts(1000).length !== 1000) throw new Error('conflicts are not found');
  return [
    { name: '1,000,000 addresses that two clusters claim: memory', value: held, unit: 'MB', bar: '< 120' },
    { name: 'the first 1000 of these conflicts', value: clock() - began, unit: 'ms', bar: '< 20' },
  ];
}

function addresses(name: (index: number) => string): Entries {
  const bulk = { id: CLUSTER.id, addresses: COUNT };
  return (index) => {
    const ip = name(index);
    const pod = { namespace: `namespace-${index % 50}`, pod: `pod-${index}` };
    const value = addressValue({ ip, host: bulkHost(index), identity: bulkIdentity(bulk, index), ...pod });
    return [ip, Buffer.from(value)];
  };
}

function address6(index: number): string {
  return `fd00:10:1:${(1 + (index >> 14)).toString(16)}::${(1 + (index & 0x3fff)).toString(16)}`;
}

/** Milliseconds of this thread: what else the machine does is no cost of ours. */
function clock(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1000;
}

/** One list, of every `stride`th address; without `end` the sweep is left to the caller. */
function list(sink: FactSink, entries: Entries, { stride = 1, end = true } = {}): { ms: number; longest: number } {
  let ms = 0;
  let longest = 0;
  sink.listing();
  for (let at = 0; at < COUNT; at += STEP * stride) {
    const batch = Array.from({ length: STEP }, (_, index) => entries(at + index * stride));
    const before = clock();
    for (const [key, value] of batch) sink.put(key, value);
    const took = clock() - before;
    ms += took;
    longest = Math.max(longest, took);
  }
  const before = clock();
  if (end) sink.listed();
  return { ms: ms + clock() - before, longest };
}

function lookups(tables: Tables, entries: Entries): number {
  const asked = Array.from({ length: 100_000 }, (_, index) => parseAddress(entries(index * 10)[0]));
  const began = clock();
  for (const address of asked)
    if (address === undefined || !tables.ipcache.lookup(address)) throw new Error('not found');
  return ((clock() - began) * 1000) / asked.length;
}

/** How long a work in slices takes, and the longest time for which nothing else could run. */
async function loopWhile(start: () => void, over: () => boolean): Promise<{ ms: number; longest: number }> {
  const began = clock();
  let longest = 0;
  let last = began;
  start();
  for (;;) {
    const now = clock();
    longest = Math.max(longest, now - last);
    last = now;
    if (over()) return { ms: now - began, longest };
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Megabytes in use after a collection of the garbage. */
function memory(): number {
  collectGarbage();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return (heapUsed + arrayBuffers) / 2 ** 20;
}
