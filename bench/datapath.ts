/**
 * Packets through our table against connection tracking alone, in pairs within one run: two machines that differ in nothing
 * else, each with a peer of its own on a veth pair, are measured in turn, in many short slices.
 */
import { LOAD_SCRIPT, LoadedMachine, MACHINE } from './load.ts';
import { compareInPairs, TRACKING } from './pairs.ts';
import type { Row } from './row.ts';

const TABLES = [
  { name: '10 addresses, 10 rows', size: 10, rows: 10 },
  { name: '1,000,000 addresses, 16,000 rows', size: 1_000_000, rows: 16_000 },
] as const;
const KINDS = [
  { kind: 'throughput', name: 'TCP throughput', bar: '> 98' },
  { kind: 'requests', name: 'UDP requests and answers', bar: '> 98' },
  { kind: 'connections', name: 'new TCP connections', bar: '> 97' },
] as const;

export async function run(): Promise<Row[]> {
  const plain = await LoadedMachine.start('plain', 'machine');
  const rows: Row[] = [];
  try {
    plain.namespace.feed(TRACKING, 'nft', '-f', '-');
    for (const { name, size, rows: count } of TABLES) {
      const ours = await LoadedMachine.start('ours', 'machine');
      try {
        ours.namespace.run(process.execPath, '--no-warnings', LOAD_SCRIPT, 'table', String(size), String(count));
        for (const { kind, name: what, bar } of KINDS) {
          const share = await compareInPairs(
            () => plain.measure(kind, MACHINE),
            () => ours.measure(kind, MACHINE),
          );
          const value = Math.round(share * 100) / 100;
          rows.push({ name: `${what}, ${name}: share of connection tracking alone`, value, unit: '%', bar });
        }
      } finally {
        await ours.close();
      }
    }
  } finally {
    await plain.close();
  }
  return rows;
}
