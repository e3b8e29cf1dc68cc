/**
 * Services: new connections through one against direct ones, in pairs within one run, and what it takes to load and change
 * them. The machine is the client here; its peer is the backend.
 */
import { join } from 'node:path';
import { Namespace } from '../test/lab/namespace.ts';
import { Lines } from './datapath.ts';
import type { Ask } from './datapath-load.ts';
import { compareInPairs, SLICE_MS, TRACKING } from './pairs.ts';
import type { Row } from './row.ts';
import type { Loaded } from './services-load.ts';

const PEER = '10.200.0.2';
const FRONTEND = '10.96.0.0';

/** What address translation costs by itself, whoever asks for it. */
const ONE_RULE = `
table ip one {
  chain out { type nat hook output priority -100; policy accept; ip daddr ${FRONTEND} dnat to ${PEER}; }
  chain in { type nat hook prerouting priority -100; policy accept; }
}`;

export async function run(): Promise<Row[]> {
  const rows: Row[] = [];
  const plain = await Client.start('plain');
  const rule = await Client.start('rule');
  try {
    plain.namespace.feed(TRACKING, 'nft', '-f', '-');
    load(rule.namespace, 0);
    rule.namespace.feed(ONE_RULE, 'nft', '-f', '-');
    const rates: number[] = [];
    for (const count of [10, 10_000]) {
      const ours = await Client.start('ours');
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
  readonly client: Client;
  readonly host: string;
}

/** The share of the second way in the first, in percent. */
const compare = (direct: Way, service: Way): Promise<number> =>
  compareInPairs(
    () => direct.client.measure(direct.host),
    () => service.client.measure(service.host),
  );

/** A machine that asks, and a peer that serves. */
class Client {
  readonly namespace: Namespace;
  readonly #peer: Namespace;
  readonly #asker: Lines;

  private constructor(namespace: Namespace, peer: Namespace, asker: Lines) {
    this.namespace = namespace;
    this.#peer = peer;
    this.#asker = asker;
  }

  static async start(label: string): Promise<Client> {
    const namespace = new Namespace(`bench-${label}`);
    const peer = new Namespace(`bench-${label}-p`);
    namespace.connect(peer, {
      device: 'eth0',
      peerDevice: 'eth0',
      addresses: ['10.200.0.1/24'],
      peerAddresses: [`${PEER}/24`],
    });
    namespace.run('ip', 'route', 'add', 'default', 'via', PEER);
    const script = join(import.meta.dirname, 'datapath-load.ts');
    const server = new Lines(peer.start(process.execPath, ['--no-warnings', script, 'serve']));
    const asker = new Lines(namespace.start(process.execPath, ['--no-warnings', script, 'ask']));
    await server.next();
    await asker.next();
    return new Client(namespace, peer, asker);
  }

  async measure(host: string): Promise<number> {
    this.#asker.say({ kind: 'connections', host, ms: SLICE_MS } satisfies Ask);
    const value = await this.#asker.next();
    if (typeof value !== 'number') throw new Error(String(value));
    return value;
  }

  async close(): Promise<void> {
    await this.#peer.close();
    await this.namespace.close();
  }
}
