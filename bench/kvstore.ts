import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { decodeAddress } from '../src/kvstore/codec/address.ts';
import { decodeShort } from '../src/kvstore/messages.ts';
import { openStore } from '../src/kvstore/session.ts';
import type { PrefixSink, Store } from '../src/kvstore/store.ts';
import { DEFAULT_TIMING, Transport } from '../src/kvstore/transport.ts';
import { WireWriter } from '../src/kvstore/wire.ts';
import { Etcd } from '../test/lab/etcd.ts';
import { until } from '../test/lab/namespace.ts';
import type { ListFigures } from './kvstore-list.ts';
import type { Row } from './row.ts';

const ADDRESSES = 1_000_000;
const PREFIX = 'cilium/state/ip/v1/default/';
const BLOCK = [65_536, 131_071] as const;
const PER_TRANSACTION = 120;

export async function run(): Promise<Row[]> {
  const rows: Row[] = [...decoding()];
  const etcd = await Etcd.start({ flags: ['--quota-backend-bytes', String(4 * 2 ** 30)] });
  try {
    await fill(etcd);
    rows.push(...(await listing(etcd)), ...(await following(etcd)));
  } finally {
    await etcd.close();
  }
  return rows;
}

function addressOf(i: number): string {
  return `10.${(i >> 16) & 255}.${(i >> 8) & 255}.${i & 255}`;
}

function pairOf(i: number): string {
  const host = `192.168.${(i >> 8) & 3}.${(i >> 10) & 255}`;
  const pod = `"K8sNamespace":"default","K8sPodName":"app-${i % 5000}-7d9f8b6c5-x${i % 100}"`;
  return `{"IP":"${addressOf(i)}","Mask":null,"HostIP":"${host}","ID":${65_536 + (i & 65_535)},"Key":0,"Metadata":"",${pod}}`;
}

function decoding(): Row[] {
  const values = Array.from({ length: 100_000 }, (_, i) => [addressOf(i), Buffer.from(pairOf(i))] as const);
  const round = (): void => {
    for (const [key, value] of values) decodeAddress(key, value, BLOCK);
  };
  round();
  const began = performance.now();
  for (let i = 0; i < 10; i++) round();
  return [
    { name: 'kvstore: decode 1,000,000 addresses', value: (performance.now() - began) / 1000, unit: 's', bar: '< 1.5' },
  ];
}

/** Writes all addresses in transactions, four at a time. */
async function fill(etcd: Etcd): Promise<void> {
  const options = { endpoints: etcd.endpoints };
  const timing = { ...DEFAULT_TIMING, requestMs: 60_000 };
  const transport = await Transport.connect(etcd.endpoints[0] ?? '', options, timing, new AbortController().signal);
  let next = 0;
  const write = async (): Promise<void> => {
    while (next < ADDRESSES) {
      const transaction = new WireWriter();
      for (const end = Math.min(ADDRESSES, next + PER_TRANSACTION); next < end; next++) {
        const put = new WireWriter().bytes(1, PREFIX + addressOf(next)).bytes(2, pairOf(next));
        transaction.message(2, new WireWriter().message(2, put));
      }
      await transport.request('KV/Txn', transaction.finish(), decodeShort);
    }
  };
  await Promise.all(Array.from({ length: 4 }, write));
  transport.close();
}

/** Decodes what comes, and keeps no more than a number of each. */
class Counter implements PrefixSink {
  puts = 0;
  sum = 0;
  onPut: (() => void) | undefined;

  listing(): void {}
  remove(): void {}
  listed(): void {}

  put(key: string, value: Buffer): void {
    this.puts++;
    this.sum += decodeAddress(key, value, BLOCK).identity;
    this.onPut?.();
  }
}

/** In a process of its own: memory that others have left behind would hide what a list takes. */
async function listing(etcd: Etcd): Promise<Row[]> {
  const script = fileURLToPath(new URL('./kvstore-list.ts', import.meta.url));
  const { stdout } = await promisify(execFile)(process.execPath, [script, etcd.endpoints[0] ?? '', PREFIX]);
  const { puts, seconds, peakMegabytes, longestStep } = JSON.parse(stdout) as ListFigures;
  if (puts !== ADDRESSES) throw new Error(`${puts} addresses were listed`);
  return [
    { name: 'kvstore: list and decode 1,000,000 addresses', value: seconds, unit: 's', bar: '< 8' },
    { name: 'kvstore: resident memory that the list adds at its peak', value: peakMegabytes, unit: 'MB', bar: '< 200' },
    { name: 'kvstore: longest step of the event loop meanwhile', value: longestStep, unit: 'ms', bar: '< 50' },
  ];
}

async function following(etcd: Etcd): Promise<Row[]> {
  const open = (): Store => openStore({ etcd: async () => ({ endpoints: etcd.endpoints }) });
  const [writer, reader] = [open(), open()];
  const counter = new Counter();
  const watch = reader.watchPrefix(`${PREFIX}10.1.`, {
    ...bound(counter),
    put: (key, value) => counter.put(`10.1.${key}`, value),
  });
  await until('it is listed', () => watch.synced);
  counter.puts = 0;
  const changes = 20_000;
  let next = 0;
  const began = performance.now();
  const write = async (): Promise<void> => {
    while (next < changes) {
      const i = 65_536 + (next++ & 65_535);
      await writer.put(PREFIX + addressOf(i), pairOf(i));
    }
  };
  await Promise.all(Array.from({ length: 64 }, write));
  await until('all changes were seen', () => counter.puts >= changes);
  const rate = changes / ((performance.now() - began) / 1000);
  const delays = await latencies(writer, counter);
  await writer.close();
  await reader.close();
  return [
    {
      name: 'kvstore: changes followed, with etcd and the writer on the same cores',
      value: rate,
      unit: '/s',
      bar: '> 2000',
    },
    { name: 'kvstore: one change, from the put until it is decoded, p99', value: delays, unit: 'ms', bar: '< 20' },
  ];
}

function bound(counter: Counter): PrefixSink {
  return {
    listing: () => counter.listing(),
    put: (key, value) => counter.put(key, value),
    remove: () => counter.remove(),
    listed: () => counter.listed(),
  };
}

async function latencies(writer: Store, counter: Counter): Promise<number> {
  const delays: number[] = [];
  for (let i = 0; i < 500; i++) {
    const seen = new Promise<void>((resolve) => {
      counter.onPut = resolve;
    });
    const began = performance.now();
    await writer.put(PREFIX + addressOf(65_536 + i), pairOf(65_536 + i));
    await seen;
    delays.push(performance.now() - began);
  }
  return delays.sort((a, b) => a - b)[Math.floor(delays.length * 0.99)] ?? 0;
}
