/**
 * Services: new connections through one against direct ones, in pairs within one run, and what it takes to load and change
 * them. The machine is the client here; its peer is the backend.
 */
import { join } from 'node:path';
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

export async function run(): Promise<Row[]> {
  const rows: Row[] = [];
  const plain = await startClient('plain');
  const rule = await startClient('rule');
  try {
    plain.namespace.feed(TRACKING, 'nft', '-f', '-');
    load(rule.namespace, 0);
    rule.namespace.feed(ONE_RULE, 'nft', '-f', '-');
    const rates: number[] = [];
    for (const count of [10, 10_000]) {
      const ours = await startClient('ours');
      try {
        const loaded = load(ours.namespace, count);
        const at = `${count.toLocaleString('en')} services`;
        const share = await compare({ client: plain, host: PEER }, { client: ours, host: FRONTEND });
        rates.push(share);
        rows.push(
          percent(`new TCP connections, ${at}: share of direct ones with connection tracking alone`, share, '> 95'),
        );
        const one = await compare({ client: rule, host: FRONTEND }, { client: ours, host: FRONTEND });
        rows.push(
          percent(`new TCP connections, ${at}: share of those by one dnat rule under the same policy`, one, '> 95'),
        );
        if (count === 10_000) rows.push(...rowsOf(loaded));
      } finally {
        await ours.close();
      }
    }
    const [few = 0, many = 0] = rates;
    rows.push(percent('new TCP connections: 10,000 services against 10', (many / few) * 100, '> 97'));
  } finally {
    await plain.close();
    await rule.close();
  }
  return rows;
}

const percent = (name: string, value: number, bar?: string): Row => ({
  name,
  value: Math.round(value * 100) / 100,
  unit: '%',
  ...(bar !== undefined && { bar }),
});

function rowsOf(loaded: Loaded): Row[] {
  const at = '10,000 services, 50,000 backends';
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

function load(namespace: Namespace, count: number): Loaded {
  const script = join(import.meta.dirname, 'services-load.ts');
  const text = namespace.run(process.execPath, '--no-warnings', script, String(count));
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
