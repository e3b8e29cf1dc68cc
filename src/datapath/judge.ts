import type { NumericIdentity } from '../core/identity.ts';
import type { DirectionPolicy, Verdict } from '../policy/result.ts';

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
  const row = decidingRow(policy.classOf(packet.identity).rows, packet);
  if (row === undefined) return policy.enforcing && policy.defaultDeny ? 'deny' : 'allow';
  return row.audit === true ? 'allow' : row.verdict;
}

/** What places a row among others. */
export interface RowPlace {
  readonly protocol: number;
  readonly first: number;
  readonly last: number;
}

/** The row that a packet meets first; undefined when none matches. Rows of one class, desired ones or the kernel's. */
export function decidingRow<Row extends RowPlace>(
  rows: readonly Row[],
  packet: Pick<Packet, 'protocol' | 'port'>,
): Row | undefined {
  const { ports, any } = indexOf(rows);
  return findRow(ports.get(packet.protocol), packet.port) ?? any;
}

interface ProtocolRows<Row> {
  readonly exact: Map<number, Row>;
  /** In order, disjoint. */
  readonly ranges: Row[];
  whole: Row | undefined;
}

interface RowIndex<Row> {
  readonly ports: ReadonlyMap<number, ProtocolRows<Row>>;
  readonly any: Row | undefined;
}

/** A class may have thousands of rows and be asked for every connection of the machine. */
const indexes = new WeakMap<readonly RowPlace[], RowIndex<RowPlace>>();

function indexOf<Row extends RowPlace>(rows: readonly Row[]): RowIndex<Row> {
  const known = indexes.get(rows);
  // The key holds these very rows.
  if (known !== undefined) return known as RowIndex<Row>;
  const ports = new Map<number, ProtocolRows<Row>>();
  let any: Row | undefined;
  for (const row of rows) {
    if (row.protocol === 0) {
      any = row;
      continue;
    }
    const of = ports.get(row.protocol) ?? { exact: new Map<number, Row>(), ranges: [], whole: undefined };
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

function findRow<Row>(rows: ProtocolRows<Row> | undefined, port: number): Row | undefined {
  if (rows === undefined) return undefined;
  const exact = rows.exact.get(port);
  if (exact !== undefined) return exact;
  let low = 0;
  let high = rows.ranges.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    const range = rows.ranges[middle] as Row & RowPlace;
    if (port < range.first) high = middle - 1;
    else if (port > range.last) low = middle + 1;
    else return range;
  }
  return rows.whole;
}
