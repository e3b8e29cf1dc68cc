/**
 * Packets through our policy, in pairs within one run: two machines that differ in nothing else, each with a peer of its own on
 * a veth pair, are measured in turn, in many short slices. nftables needs connection tracking, so it is measured against that
 * alone; eBPF against a machine without any policy.
 */
import { LOAD_SCRIPT, LoadedMachine, MACHINE } from './load.ts';
import { compareInPairs, TRACKING } from './pairs.ts';
import type { Row } from './row.ts';

const TABLES = [
  { name: '10 addresses, 10 rows', size: 10, rows: 10 },
  { name: '1,000,000 addresses, 16,000 rows', size: 1_000_000, rows: 16_000 },
] as const;
const KINDS = [
  { kind: 'throughput', name: 'TCP throughput' },
  { kind: 'requests', name: 'UDP requests and answers' },
  { kind: 'connections', name: 'new TCP connections' },
] as const;
const DATAPATHS = [
  { datapath: 'nftables', peer: 'connection tracking alone', rules: TRACKING, bars: [98, 98, 97] },
  { datapath: 'bpf', peer: 'no policy at all', rules: undefined, bars: [98, 95, 92] },
] as const;

export async function run(): Promise<Row[]> {
  const rows: Row[] = [];
  for (const each of DATAPATHS) rows.push(...(await measure(each)));
  return rows;
}

async function measure({ datapath, peer, rules, bars }: (typeof DATAPATHS)[number]): Promise<Row[]> {
  const plain = await LoadedMachine.start('plain', 'machine');
  const rows: Row[] = [];
  try {
    if (rules !== undefined) plain.namespace.feed(rules, 'nft', '-f', '-');
    for (const { name, size, rows: count } of TABLES) {
      const ours = await LoadedMachine.start('ours', 'machine');
      try {
        const write = [process.execPath, '--no-warnings', LOAD_SCRIPT, 'table', datapath, String(size), String(count)];
        const [command = '', ...args] = ours.namespace.bpf.around(...write);
        ours.namespace.run(command, ...args);
        for (const [index, { kind, name: what }] of KINDS.entries()) {
          const share = await compareInPairs(
            () => plain.measure(kind, MACHINE),
            () => ours.measure(kind, MACHINE),
          );
          rows.push({
            name: `${datapath}, ${what}, ${name}: share of ${peer}`,
            value: Math.round(share * 100) / 100,
            unit: '%',
            bar: `> ${bars[index]}`,
          });
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
