import { setImmediate as nextTurn } from 'node:timers/promises';
import { formatIpv4, formatIpv6, formatPrefix } from '../../core/ip.ts';
import type { BpfMap } from '../../host/bpf/map.ts';
import type { KernelAddress, KernelPolicyRow } from '../datapath.ts';
import { rowName } from './classes.ts';
import type { Generation } from './generation.ts';
import { CODE, DIRECTION, keyWords, readPrefix, readVersioned, SIDES, type Side, VERSIONED_BYTES } from './layout.ts';
import { cellOfRange, cellOfRow } from './row-cells.ts';
import type { Cell } from './rows.ts';

const TURN = 4096;
const NO_TUNNEL = '0.0.0.0';

export interface DumpOptions {
  readonly generation: Generation;
  readonly revision: bigint;
  /** Entries that go in a moment, by map: they say something only in place of what is around them. */
  readonly dead: ReadonlyMap<string, ReadonlySet<string>>;
}

type Visit = (key: Buffer, value: number, rest: Buffer) => void;

async function visitMap({ generation, revision, dead }: DumpOptions, name: string, visit: Visit): Promise<void> {
  const map: BpfMap = generation.map(name);
  const gone = dead.get(name);
  let count = 0;
  for (const { key, value } of map.entries()) {
    if (++count % TURN === 0) await nextTurn();
    const { before, after, since } = readVersioned(value);
    const now = since > revision ? before : after;
    if (now !== 0 && gone?.has(key.toString('latin1')) !== true) visit(key, now, value);
  }
}

/** Wider prefixes before narrower ones, single addresses last. */
export async function dumpAddresses(options: DumpOptions): Promise<KernelAddress[]> {
  const prefixes: { bits: number; address: KernelAddress }[] = [];
  for (const name of ['prefixes4', 'prefixes6']) {
    await visitMap(options, name, (key, identity) => {
      const prefix = readPrefix(key);
      const address = { prefix: formatPrefix(prefix), identity, tunnelEndpoint: NO_TUNNEL };
      prefixes.push({ bits: prefix.bits, address });
    });
  }
  const found = prefixes.sort((a, b) => a.bits - b.bits).map(({ address }) => address);
  const add = (prefix: string, identity: number): void =>
    void found.push({ prefix, identity, tunnelEndpoint: NO_TUNNEL });
  await visitMap(options, 'hosts4', (key, identity) => add(`${formatIpv4(key.readUInt32BE(0))}/32`, identity));
  await visitMap(options, 'hosts6', (key, identity) => add(`${formatIpv6(keyWords(key, 0, 4))}/128`, identity));
  return found;
}

interface Row {
  readonly side: Side;
  readonly number: number;
  readonly cell: Cell;
  packets: number;
  bytes: number;
}

export async function dumpPolicy(options: DumpOptions): Promise<KernelPolicyRow[]> {
  const members = new Map<string, number[]>();
  await visitMap(options, 'classes', (key, number) => {
    const name = `${sideOf(key[4])} ${number}`;
    const list = members.get(name);
    if (list === undefined) members.set(name, [key.readUInt32LE(0)]);
    else list.push(key.readUInt32LE(0));
  });
  const rows = new Map<string, Row>();
  const add = (of: Omit<Row, 'packets' | 'bytes'>, value: Buffer): void => {
    const name = `${of.side} ${of.number} ${rowName(of.cell)}`;
    const row = rows.get(name) ?? { ...of, packets: 0, bytes: 0 };
    row.packets += Number(value.readBigUInt64LE(VERSIONED_BYTES));
    row.bytes += Number(value.readBigUInt64LE(VERSIONED_BYTES + 8));
    rows.set(name, row);
  };
  await visitMap(options, 'rows', (key, code, value) =>
    add({ side: sideOf(key[7]), number: key.readUInt32LE(0), cell: cellOfRow(key, code) }, value),
  );
  await visitMap(options, 'ranges', (key, code, value) =>
    add({ side: sideOf(key[8]), number: key.readUInt32BE(4), cell: cellOfRange(key, code, value) }, value),
  );
  const sorted = [...rows.values()].sort((a, b) => SIDES.indexOf(a.side) - SIDES.indexOf(b.side));
  return sorted.map(({ side, number, cell, packets, bytes }) => ({
    direction: DIRECTION[side],
    verdict: cell.value === CODE.allow ? 'allow' : 'deny',
    ...(cell.value === CODE.audited && { audit: true }),
    identities: members.get(`${side} ${number}`) ?? [],
    classNumber: number,
    protocol: Number(cell.place.split(' ')[1]),
    first: cell.first,
    last: cell.last,
    packets,
    bytes,
  }));
}

function sideOf(byte = 0): Side {
  return (byte & 1) === 0 ? 'in' : 'out';
}
