/**
 * The programs of the data path's bench, each in a network namespace: `serve`, `ask` (orders over standard input, a line of
 * JSON each), `flood HOST PORT`, which does not end, and `table DATAPATH SIZE ROWS`, which puts a policy in force and ends.
 */
import { createSocket } from 'node:dgram';
import { connect, createServer } from 'node:net';
import { createInterface } from 'node:readline';
import type { NumericIdentity } from '../src/core/identity.ts';
import { parseIpv4 } from '../src/core/ip.ts';
import { BpfDatapath } from '../src/datapath/bpf/datapath.ts';
import { NftDatapath } from '../src/datapath/nft/datapath.ts';
import { manyClasses, world } from './nft.ts';

const PORT = 1000;
const CHUNK = Buffer.alloc(256 << 10);

export interface Ask {
  readonly kind: keyof typeof KINDS;
  readonly host: string;
  readonly ms: number;
}

/** Megabytes, answers or connections in a second. */
const KINDS = { throughput, requests, connections };

async function throughput({ host, ms }: Ask): Promise<number> {
  const socket = connect({ host, port: PORT });
  await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
  const start = performance.now();
  const pump = (): void => {
    while (performance.now() - start < ms) {
      if (!socket.write(CHUNK)) return;
    }
    socket.end();
  };
  socket.on('drain', pump);
  pump();
  // The sink tells what it got when all of it is there.
  const got = await new Promise<string>((resolve) => {
    let text = '';
    socket.on('data', (data: Buffer) => {
      text += data.toString();
    });
    socket.on('close', () => resolve(text));
  });
  return Number(got) / 2 ** 20 / ((performance.now() - start) / 1000);
}

async function requests({ host, ms }: Ask): Promise<number> {
  const socket = createSocket('udp4');
  await new Promise<void>((resolve) => socket.connect(PORT, host, resolve));
  let answers = 0;
  const start = performance.now();
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, ms);
    socket.on('message', () => {
      answers++;
      if (performance.now() - start < ms) socket.send('?');
      else {
        clearTimeout(timer);
        resolve();
      }
    });
    socket.send('?');
  });
  const took = performance.now() - start;
  socket.close();
  return answers / (took / 1000);
}

async function connections({ host, ms }: Ask): Promise<number> {
  const start = performance.now();
  let count = 0;
  const one = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const socket = connect({ host, port: PORT + 1 });
      socket.once('error', reject);
      // A reset, so that no port waits for its next use.
      socket.once('connect', () => socket.resetAndDestroy());
      socket.once('close', () => resolve());
    });
  while (performance.now() - start < ms) {
    await one();
    count++;
  }
  return count / ((performance.now() - start) / 1000);
}

function serve(): void {
  createServer({ allowHalfOpen: true }, (socket) => {
    let bytes = 0;
    socket.on('data', (data: Buffer) => {
      bytes += data.length;
    });
    socket.on('end', () => socket.end(String(bytes)));
    socket.on('error', () => {});
  }).listen(PORT);
  createServer((socket) => socket.on('error', () => {}).resume()).listen(PORT + 1);
  const socket = createSocket('udp4');
  socket.on('message', (message, from) => socket.send(message, from.port, from.address));
  socket.bind(PORT, () => process.stdout.write('"ready"\n'));
}

function ask(): void {
  createInterface({ input: process.stdin }).on('line', (line) => {
    const order = JSON.parse(line) as Ask;
    KINDS[order.kind](order).then(
      (value) => process.stdout.write(`${JSON.stringify(value)}\n`),
      (error: unknown) => process.stdout.write(`${JSON.stringify(String(error))}\n`),
    );
  });
  process.stdin.on('end', () => process.exit(0));
  process.stdout.write('"ready"\n');
}

/** 10,000 datagrams a second. */
async function flood(host: string, port: number): Promise<void> {
  const socket = createSocket('udp4');
  await new Promise<void>((resolve) => socket.connect(port, host, resolve));
  const payload = Buffer.alloc(32);
  const start = performance.now();
  for (let sent = 0; ; ) {
    for (; sent < (performance.now() - start) * 10; sent++) socket.send(payload, () => undefined);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** The peer is one of many; its class has the ports of the bench among its rows. */
async function table(name: string, size: number, rows: number): Promise<void> {
  const { desired, hosts4 } = world(
    size,
    manyClasses(rows < 100 ? 2 : 101, rows < 100 ? rows : Math.floor(rows / 100)),
  );
  hosts4.set(hosts4.insert([parseIpv4('10.200.0.2')]), 0, 65_536 as NumericIdentity);
  const datapath = name === 'bpf' ? new BpfDatapath() : new NftDatapath();
  await datapath.open();
  await datapath.apply(desired, { everything: true });
  await datapath.close();
}

const [, , role, ...numbers] = process.argv;
if (role === 'serve') serve();
else if (role === 'ask') ask();
else if (role === 'flood') await flood(numbers[0] ?? '', Number(numbers[1]));
else if (role === 'table') await table(numbers[0] ?? '', Number(numbers[1]), Number(numbers[2]));
