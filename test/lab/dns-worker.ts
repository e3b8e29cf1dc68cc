/**
 * DNS in a place of the lab: a tiny server, a tiny client, and a forger, by order of the parent, a line of JSON each
 * (`JsonWorker`). The client takes any answer, also what a real one would refuse.
 */
import { createSocket, type RemoteInfo } from 'node:dgram';
import { createInterface } from 'node:readline';
import { formatAddress, parseAddress } from '../../src/core/ip.ts';
import { readDnsMessage } from '../../src/policy/fqdn/dns-message.ts';

export interface DnsRecords {
  readonly [name: string]: { readonly addresses: readonly string[]; readonly ttl: number };
}

/** What a server does with a query. */
export type DnsMode = 'honest' | 'silent' | 'wrong-id' | 'wrong-name';

export interface DnsQuestion {
  readonly server: string;
  readonly name: string;
  readonly type: 'A' | 'AAAA';
  readonly id?: number;
  readonly fromPort?: number;
  readonly timeoutMs?: number;
}

export interface DnsForgery {
  readonly to: string;
  readonly port: number;
  readonly id: number;
  readonly name: string;
  readonly address: string;
}

const TYPES = { A: 1, AAAA: 28 } as const;
const PORT = 53;

let records: DnsRecords = {};
let mode: DnsMode = 'honest';

const orders: Record<string, (request: never) => unknown> = {
  serve,
  records: ({ records: given }: { records: DnsRecords }) => {
    records = given;
  },
  mode: ({ mode: given }: { mode: DnsMode }) => {
    mode = given;
  },
  ask,
  forge,
  flood,
};

createInterface({ input: process.stdin }).on('line', (line) => {
  const { id, order, request } = JSON.parse(line) as { id: number; order: string; request: never };
  const run = async (): Promise<unknown> => orders[order]?.(request);
  run().then(
    (result) => say({ id, result: result ?? null }),
    (error: unknown) => say({ id, error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
  );
});
process.stdin.on('end', () => process.exit(0));
say({ ready: true });

function say(message: object): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

/** Each family has a socket of its own, so that an answer leaves from the address that was asked. */
async function serve({ addresses }: { addresses: readonly string[] }): Promise<void> {
  for (const address of addresses) {
    const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
    socket.on('message', (query, from) => {
      for (const answer of answersTo(query)) socket.send(answer, from.port, from.address);
    });
    await new Promise<void>((resolve, reject) => {
      socket.on('error', reject);
      socket.bind(PORT, address, () => resolve());
    });
  }
}

function answersTo(query: Buffer): Buffer[] {
  const message = readDnsMessage(query);
  if (message === undefined || mode === 'silent') return [];
  const type = query.readUInt16BE(query.length - 4);
  const known = records[message.name] ?? { addresses: [], ttl: 0 };
  const id = mode === 'wrong-id' ? message.id ^ 1 : message.id;
  const name = mode === 'wrong-name' ? `not-${message.name}` : message.name;
  const addresses = known.addresses.filter((each) => (type === TYPES.AAAA) === each.includes(':'));
  return [answer({ id, name, type, addresses, ttl: known.ttl })];
}

function ask(question: DnsQuestion): Promise<{ readonly addresses: readonly string[] } | null> {
  const { server, name, type, id = 1 + Math.floor(Math.random() * 65_000), fromPort = 0, timeoutMs = 5000 } = question;
  const socket = createSocket(server.includes(':') ? 'udp6' : 'udp4');
  return new Promise((resolve, reject) => {
    const end = (result: { addresses: readonly string[] } | null): void => {
      clearTimeout(timer);
      clearInterval(again);
      socket.close();
      resolve(result);
    };
    const send = (): void => socket.send(message({ id, flags: 0x0100, name, type: TYPES[type] }), PORT, server);
    const again = setInterval(send, 1000);
    const timer = setTimeout(() => end(null), timeoutMs);
    socket.on('error', reject);
    socket.on('message', (data: Buffer, _from: RemoteInfo) => {
      const addresses = readDnsMessage(data)?.addresses ?? [];
      end({ addresses: addresses.map(({ address }) => formatAddress(address)) });
    });
    socket.bind(fromPort, send);
  });
}

/** As many queries as the machine can send, each of another name, from one port; nobody waits for answers. */
async function flood({ server, count }: { server: string; count: number }): Promise<void> {
  const socket = createSocket('udp4');
  socket.on('error', () => undefined);
  for (let i = 0; i < count; i++) {
    const query = message({ id: i & 0xffff, flags: 0x0100, name: `flood-${i}.cdn.example.test`, type: TYPES.A });
    socket.send(query, PORT, server);
    if (i % 200 === 199) await new Promise(setImmediate);
  }
  socket.close();
}

/** An answer that nobody asked this host for. */
function forge({ to, port, id, name, address }: DnsForgery): Promise<void> {
  const socket = createSocket(to.includes(':') ? 'udp6' : 'udp4');
  const type = address.includes(':') ? TYPES.AAAA : TYPES.A;
  const data = answer({ id, name, type, addresses: [address], ttl: 600 });
  return new Promise((resolve, reject) => {
    socket.on('error', reject);
    socket.bind(0, () =>
      socket.send(data, port, to, () => {
        socket.close();
        resolve();
      }),
    );
  });
}

function message(said: { id: number; flags: number; name: string; type: number; answers?: readonly Buffer[] }): Buffer {
  const { answers = [] } = said;
  const header = Buffer.alloc(12);
  header.writeUInt16BE(said.id, 0);
  header.writeUInt16BE(said.flags, 2);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(answers.length, 6);
  const tail = Buffer.alloc(4);
  tail.writeUInt16BE(said.type, 0);
  tail.writeUInt16BE(1, 2);
  return Buffer.concat([header, encodeName(said.name), tail, ...answers]);
}

function answer(said: {
  readonly id: number;
  readonly name: string;
  readonly type: number;
  readonly addresses: readonly string[];
  readonly ttl: number;
}): Buffer {
  const answers = said.addresses.map((text) => {
    const words = parseAddress(text)?.words ?? [];
    const record = Buffer.alloc(12 + 4 * words.length);
    // A pointer to the question's name.
    record.writeUInt16BE(0xc00c, 0);
    record.writeUInt16BE(said.type, 2);
    record.writeUInt16BE(1, 4);
    record.writeUInt32BE(said.ttl, 6);
    record.writeUInt16BE(4 * words.length, 10);
    for (const [index, word] of words.entries()) record.writeUInt32BE(word, 12 + 4 * index);
    return record;
  });
  return message({ ...said, flags: 0x8180, answers });
}

function encodeName(name: string): Buffer {
  const labels = name.split('.').map((label) => Buffer.concat([Buffer.of(label.length), Buffer.from(label, 'latin1')]));
  return Buffer.concat([...labels, Buffer.of(0)]);
}
