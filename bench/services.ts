/**
 * Services: new connections through one against direct ones, in pairs within one run, and what it takes to load and change
 * them. The machine is the client here; its peer is the backend.
 */
import { join } from 'node:path';
import { BpfFileSystem } from '../test/lab/bpf.ts';
import type { Namespace } from '../test/lab/namespace.ts';
import { LoadedMachine, PEER } from './load.ts';
import { compareInPairs, TRACKING } from './pairs.ts';
import type { Row } from './row.ts';
import type { Loaded } from './services-load.ts';

const FRONTEND = '10.96.0.0';

/** What address translation costs by itself, whoever asks for it. */
const ONE_RULE = `
table ip one {
  chain out { type nat hook output priority -100; policy accept; ip daddr ${FRONTEND} dnat to ${PEER}; }
  chain in { type nat hook prerouting priority -100; policy accept; }
}`;

const WAYS = { sockets: 'at the socket', bpf: 'at the socket with `datapath: bpf`', packets: 'by packets' } as const;
type WayName = keyof typeof WAYS;

export async function run(): Promise<Row[]> {
  const rows: Row[] = [];
  const fileSystem = new BpfFileSystem();
  const plain = await startClient('plain');
  const rule = await startClient('rule');
  try {
    plain.namespace.feed(TRACKING, 'nft', '-f', '-');
    load(rule.namespace, { count: 0, way: 'packets', fileSystem });
    rule.namespace.feed(ONE_RULE, 'nft', '-f', '-');
    for (const way of ['sockets', 'bpf', 'packets'] as const) {
      const rates: number[] = [];
      for (const count of [10, 10_000]) {
        const ours = await startClient('ours');
        try {
          const loaded = load(ours.namespace, { count, way, fileSystem });
          const measured = await measure({ ours, plain, rule, way, count });
          rates.push(measured.share);
          rows.push(...measured.rows);
          if (count === 10_000) rows.push(...rowsOf(loaded, way));
        } finally {
          await ours.close();
        }
      }
      const [few = 0, many = 0] = rates;
      const name = `new TCP connections, ${WAYS[way]}: 10,000 services against 10`;
      rows.push(percent(name, (many / few) * 100, '> 97'));
    }
  } finally {
    await plain.close();
    await rule.close();
    fileSystem.close();
  }
  return rows;
}

interface Clients {
  readonly ours: LoadedMachine;
  readonly plain: LoadedMachine;
  readonly rule: LoadedMachine;
  readonly way: WayName;
  readonly count: number;
}

async function measure({ ours, plain, rule, way, count }: Clients): Promise<{ share: number; rows: Row[] }> {
  const at = `new TCP connections ${WAYS[way]}, ${count.toLocaleString('en')} services`;
  const service = { client: ours, host: FRONTEND };
  const share = await compare({ client: ours, host: PEER }, service);
  const tracked = await compare({ client: plain, host: PEER }, service);
  const rows = [
    percent(`${at}: share of direct ones of the same machine`, share, '> 95'),
    percent(`${at}: share of direct ones with connection tracking and no policy`, tracked),
  ];
  if (way === 'packets') {
    const one = await compare({ client: rule, host: FRONTEND }, service);
    rows.push(percent(`${at}: share of those by one dnat rule under the same policy`, one, '> 95'));
  }
  return { share, rows };
}

const percent = (name: string, value: number, bar?: string): Row => ({
  name,
  value: Math.round(value * 100) / 100,
  unit: '%',
  ...(bar !== undefined && { bar }),
});

function rowsOf(loaded: Loaded, way: WayName): Row[] {
  const at = `10,000 services, 50,000 backends, ${WAYS[way]}`;
  const row = (name: string, value: number, bar?: number, unit = 'ms'): Row => ({
    name: `${at}: ${name}`,
    value: Math.round(value * 100) / 100,
    unit,
    ...(bar !== undefined && { bar: `< ${bar}` }),
  });
  return [
    row('facts to frontends', loaded.modelMs),
    row('first load into the kernel', loaded.loadMs),
    row('both', loaded.modelMs + loaded.loadMs, 2000),
    row('event loop blocked, model', loaded.modelBlockedMs, 50),
    row('event loop blocked, first load', loaded.loadBlockedMs, 50),
    row('one changed backend to the kernel, p99', loaded.changeP99Ms, 50),
    row('elements written for it', loaded.elementsPerChange, undefined, ''),
    row('restart: read back and compared', loaded.reopenMs),
  ];
}

interface Task {
  readonly count: number;
  readonly way: WayName;
  readonly fileSystem: BpfFileSystem;
}

function load(namespace: Namespace, { count, way, fileSystem }: Task): Loaded {
  const script = join(import.meta.dirname, 'services-load.ts');
  const text = namespace.run(process.execPath, '--no-warnings', script, String(count), way, fileSystem.path);
  return JSON.parse(text === '' ? '{}' : text);
}

interface Way {
  readonly client: LoadedMachine;
  readonly host: string;
}

/** The share of the second way in the first, in percent. */
const compare = (direct: Way, service: Way): Promise<number> =>
  compareInPairs(
    () => direct.client.measure('connections', direct.host),
    () => service.client.measure('connections', service.host),
  );

/** A machine that asks, and a peer that serves. */
async function startClient(label: string): Promise<LoadedMachine> {
  const client = await LoadedMachine.start(label, 'peer');
  client.namespace.run('ip', 'route', 'add', 'default', 'via', PEER);
  return client;
}
