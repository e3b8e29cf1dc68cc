/**
 * The nftables data path at its sizes: first load, restart, and changes at a million addresses. Each size runs in a process
 * of its own in a network namespace (this file, as a program), so that memory and event loop are its own.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { fileURLToPath } from 'node:url';
import type { NumericIdentity } from '../src/core/identity.ts';
import { WordTable } from '../src/core/word-table.ts';
import type { DesiredState } from '../src/datapath/desired.ts';
import { NftDatapath } from '../src/datapath/nft/datapath.ts';
import type { DirectionPolicy, PolicyClass, PolicyRow } from '../src/policy/result.ts';
import type { Row } from './row.ts';

interface Measured {
  readonly loadMs: number;
  readonly loadBlockedMs: number;
  readonly changeP99Ms: number;
  readonly changeBlockedMs: number;
  readonly prefixChangeMs: number;
  readonly burstMs: number;
  readonly burstBlockedMs: number;
  readonly reopenMs: number;
  readonly reopenBlockedMs: number;
  readonly memoryMb: number;
}

const IDENTITIES = 5000;
const CHANGES = 300;
const BURST = 10_000;
const BARS: Readonly<Record<number, number | undefined>> = { 100000: 1000, 1000000: 6000 };

export async function run(): Promise<Row[]> {
  const rows: Row[] = [];
  for (const size of [100_000, 1_000_000]) {
    const name = `mesh-bench-${process.pid}`;
    execFileSync('ip', ['netns', 'add', name]);
    try {
      const command = [
        'netns',
        'exec',
        name,
        process.execPath,
        '--no-warnings',
        fileURLToPath(import.meta.url),
        String(size),
      ];
      const child = spawnSync('ip', command, { encoding: 'utf8', timeout: 300_000 });
      if (child.status !== 0) throw new Error(`bench of ${size} addresses: ${child.stderr}`);
      rows.push(...rowsOf(size, JSON.parse(child.stdout)));
    } finally {
      execFileSync('ip', ['netns', 'delete', name]);
    }
  }
  return rows;
}

function rowsOf(size: number, measured: Measured): Row[] {
  const at = `nftables, ${size.toLocaleString('en')} addresses`;
  const row = (name: string, value: number, bar?: number, unit = 'ms'): Row => ({
    name: `${at}: ${name}`,
    value: Math.round(value * 100) / 100,
    unit,
    ...(bar !== undefined && { bar: `< ${bar}` }),
  });
  return [
    row('first load', measured.loadMs, BARS[size]),
    row('event loop blocked, first load', measured.loadBlockedMs, 50),
    row('one changed address, p99', measured.changeP99Ms, 10),
    row('event loop blocked, changes', measured.changeBlockedMs, 50),
    row('one changed prefix of 10,000', measured.prefixChangeMs),
    row(`${BURST.toLocaleString('en')} changed addresses`, measured.burstMs),
    row('event loop blocked, many changes', measured.burstBlockedMs, 50),
    row('restart: read back and compared', measured.reopenMs),
    row('event loop blocked, restart', measured.reopenBlockedMs, 50),
    row('memory of the process', measured.memoryMb, undefined, 'MB'),
  ];
}

async function measure(size: number): Promise<Measured> {
  const { desired, hosts4, prefixes } = world(size);
  const delay = monitorEventLoopDelay({ resolution: 2 });
  const blocked = (): number => {
    const max = delay.max / 1e6;
    delay.reset();
    return Math.max(0, max - 2);
  };
  const first = new NftDatapath();
  await first.open();
  delay.enable();
  await pause();
  delay.reset();
  const { tookMs: loadMs } = await first.apply(desired, { everything: true });
  const loadBlockedMs = blocked();
  const times: number[] = [];
  for (let n = 0; n < CHANGES; n++) {
    const word = (0x0a000000 + ((n * 7919) % size)) >>> 0;
    hosts4.set(hosts4.insert([word]), 0, 70_000 + n);
    times.push((await first.apply(desired, { hosts4: [word] })).tookMs);
    await pause();
  }
  const changeBlockedMs = blocked();
  prefixes.set('one', { prefix: { family: 4, words: [0xac100000], bits: 16 }, identity: 77_777 as NumericIdentity });
  const { tookMs: prefixChangeMs } = await first.apply(desired, { prefixes: true });
  blocked();
  const burst = Array.from({ length: BURST }, (_, n) => (0x0a000000 + n) >>> 0);
  for (const word of burst) hosts4.set(hosts4.insert([word]), 0, 80_000);
  const { tookMs: burstMs } = await first.apply(desired, { hosts4: burst });
  const burstBlockedMs = blocked();
  await first.close();

  const start = performance.now();
  const second = new NftDatapath();
  await second.open();
  const report = await second.apply(desired, { everything: true });
  const reopenMs = performance.now() - start;
  if (report.added + report.removed > 0) throw new Error(`a restart changed ${report.added + report.removed} elements`);
  const reopenBlockedMs = blocked();
  await second.close();
  const sorted = times.sort((a, b) => a - b);
  return {
    loadMs,
    loadBlockedMs,
    changeP99Ms: sorted[Math.floor(CHANGES * 0.99)] ?? 0,
    changeBlockedMs,
    prefixChangeMs,
    burstMs,
    burstBlockedMs,
    reopenMs,
    reopenBlockedMs,
    memoryMb: process.memoryUsage().rss / 2 ** 20,
  };
}

function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 3));
}

/** So many addresses of 5,000 identities in 50 classes with 20 rows each, and 10,000 prefixes. */
export function world(
  size: number,
  policy = manyClasses(50, 20),
): {
  desired: DesiredState;
  hosts4: WordTable;
  prefixes: Map<string, { prefix: { family: 4; words: number[]; bits: number }; identity: NumericIdentity }>;
} {
  const hosts4 = new WordTable({ keyWords: 1, columns: 2 });
  const hosts6 = new WordTable({ keyWords: 4, columns: 2 });
  for (let n = 0; n < size; n++) hosts4.set(hosts4.insert([(0x0a000000 + n) >>> 0]), 0, 65_536 + (n % IDENTITIES));
  const prefixes: ReturnType<typeof world>['prefixes'] = new Map();
  for (let n = 0; n < 10_000; n++) {
    const words = [(0xc0000000 + n * 512) >>> 0];
    prefixes.set(`${n}`, { prefix: { family: 4, words, bits: 24 }, identity: (0x01000000 + n) as NumericIdentity });
  }
  const desired: DesiredState = {
    addresses: { hosts4, hosts6, prefixes: () => prefixes.values() },
    ingress: policy,
    egress: policy,
    border: {
      devices: ['eth0'],
      dualStack: false,
      failsafe: { ingress: [{ protocol: 6, port: 22 }], egress: [] },
      stores: [],
      nodes: [],
      tunnelPort: 8472,
      audit: false,
    },
    overlay: undefined,
  };
  return { desired, hosts4, prefixes };
}

/** Classes of so many rows: three that all have (TCP ports 1000 and 1001, UDP port 1000) and the rest each its own. */
export function manyClasses(count: number, rows: number): DirectionPolicy {
  const row = (n: number, r: number): PolicyRow => {
    const port = r < 2 ? 1000 + r : r === 2 ? 1000 : 2000 + ((n * rows + r) % 60_000);
    return { protocol: r === 2 ? 17 : 6, first: port, last: port, verdict: 'allow', rules: [] };
  };
  const classes: PolicyClass[] = Array.from({ length: count }, (_, n) => ({
    id: n + 1,
    rows: Array.from({ length: n === 0 ? 0 : rows }, (_, r) => row(n, r)),
  }));
  const [unknownClass, ...named] = classes as [PolicyClass, ...PolicyClass[]];
  const classOf = (id: number): PolicyClass =>
    id >= 65_536 && id < 65_536 + IDENTITIES ? (named[id % named.length] ?? unknownClass) : unknownClass;
  const members = Array.from(
    { length: IDENTITIES },
    (_, n) => [(65_536 + n) as NumericIdentity, classOf(65_536 + n)] as const,
  );
  return {
    enforcing: true,
    defaultDeny: true,
    unknownClass,
    classOf,
    identities: () => members,
    classes: () => classes,
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const size = Number(process.argv[2]);
  if (size > 0) process.stdout.write(JSON.stringify(await measure(size)));
  else for (const row of await run()) process.stdout.write(`${JSON.stringify(row)}\n`);
}
