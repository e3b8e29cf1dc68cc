import type { NumericIdentity } from '../core/identity.ts';
import type { DirectionPolicy, PolicyRow, Verdict } from '../policy/result.ts';

export interface Packet {
  readonly identity: NumericIdentity;
  /** IP protocol number. */
  readonly protocol: number;
  /** Destination port, or ICMP type. */
  readonly port: number;
}

/**
 * What the kernel does with a new connection, worked out from the policy itself: exact port, then range, then protocol,
 * then any protocol. Audited denials pass.
 */
export function judge(policy: DirectionPolicy, packet: Packet): Verdict {
  const { ports, any } = indexOf(policy.classOf(packet.identity).rows);
  const row = findRow(ports.get(packet.protocol), packet.port) ?? any;
  if (row === undefined) return policy.enforcing && policy.defaultDeny ? 'deny' : 'allow';
  return row.audit === true ? 'allow' : row.verdict;
}

interface ProtocolRows {
  readonly exact: Map<number, PolicyRow>;
  /** In order, disjoint. */
  readonly ranges: PolicyRow[];
  whole: PolicyRow | undefined;
}

interface RowIndex {
  readonly ports: ReadonlyMap<number, ProtocolRows>;
  readonly any: PolicyRow | undefined;
}

/** A class may have thousands of rows and be asked for every connection of the machine. */
const indexes = new WeakMap<readonly PolicyRow[], RowIndex>();

function indexOf(rows: readonly PolicyRow[]): RowIndex {
  const known = indexes.get(rows);
  if (known !== undefined) return known;
  const ports = new Map<number, ProtocolRows>();
  let any: PolicyRow | undefined;
  for (const row of rows) {
    if (row.protocol === 0) {
      any = row;
      continue;
    }
    const of = ports.get(row.protocol) ?? { exact: new Map<number, PolicyRow>(), ranges: [], whole: undefined };
    ports.set(row.protocol, of);
    if (row.first === 0 && row.last >= 65535) of.whole = row;
    else if (row.first === row.last) of.exact.set(row.first, row);
    else of.ranges.push(row);
  }
  for (const { ranges } of ports.values()) ranges.sort((a, b) => a.first - b.first);
  const index = { ports, any };
  indexes.set(rows, index);
  return index;
}

function findRow(rows: ProtocolRows | undefined, port: number): PolicyRow | undefined {
  if (rows === undefined) return undefined;
  const exact = rows.exact.get(port);
  if (exact !== undefined) return exact;
  let low = 0;
  let high = rows.ranges.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    const range = rows.ranges[middle] as PolicyRow;
    if (port < range.first) high = middle - 1;
    else if (port > range.last) low = middle + 1;
    else return range;
  }
  return rows.whole;
}
