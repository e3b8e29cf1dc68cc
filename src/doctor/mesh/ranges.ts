import type { CheckRecord } from '../../api/doctor-types.ts';
import { contains, formatPrefix, type Prefix } from '../../core/ip.ts';
import { Findings } from '../check.ts';

/** A range of addresses and who says that it is his. */
export interface OwnedRange {
  readonly prefix: Prefix;
  readonly cluster: string;
  readonly node: string;
}

/** A network that a device of this machine is in. */
export interface OwnNetwork {
  readonly device: string;
  readonly prefix: Prefix;
}

const GROUP = { group: 'network', name: 'ranges' } as const;
const EXAMPLES = 5;

/**
 * Ranges of clusters that overlap with those of another cluster, or with a network of this machine: packets for one of the
 * two go to the other. `own`: ranges that the cluster gave to this machine.
 */
export function judgeRanges(facts: {
  readonly ranges: readonly OwnedRange[];
  readonly networks: readonly OwnNetwork[];
  readonly own: readonly Prefix[];
}): CheckRecord[] {
  const findings = new Findings(GROUP);
  const overlaps = overlapping(facts.ranges);
  for (const [a, b] of overlaps.slice(0, EXAMPLES))
    findings.error(
      'MSH-RANGES',
      `${formatPrefix(a.prefix)} of ${a.cluster} (node ${a.node}) and ${formatPrefix(b.prefix)} of ${b.cluster} (node ${b.node}) overlap`,
      { subject: a.cluster },
    );
  const mine = (prefix: Prefix): boolean =>
    facts.own.some((range) => contains(range, prefix) || contains(prefix, range));
  for (const { device, prefix } of facts.networks) {
    if (mine(prefix)) continue;
    const hit = facts.ranges.find((range) => touches(range.prefix, prefix));
    if (hit !== undefined)
      findings.error(
        'HST-RANGE',
        `${device} is in ${formatPrefix(prefix)}, which overlaps with ${formatPrefix(hit.prefix)} of ${hit.cluster} (node ${hit.node})`,
        { subject: device },
      );
  }
  if (findings.list.length === 0)
    findings.ok(
      `${facts.ranges.length} ranges of clusters and ${facts.networks.length} networks of this machine do not overlap`,
    );
  return findings.list;
}

/**
 * One pair for each two clusters. What a cluster says of many nodes counts once: thousands that have one range in common, by
 * mistake or not, must not cost the square of their number. Sorted by first address, wide ones first: whatever overlaps an element lies right before it.
 */
function overlapping(ranges: readonly OwnedRange[]): [OwnedRange, OwnedRange][] {
  const found = new Map<string, [OwnedRange, OwnedRange]>();
  const once = new Map<string, OwnedRange>();
  for (const range of ranges) {
    const key = `${range.cluster} ${formatPrefix(range.prefix)}`;
    if (!once.has(key)) once.set(key, range);
  }
  const sorted = [...once.values()].sort((a, b) => compare(a.prefix, b.prefix));
  let open: OwnedRange[] = [];
  for (const range of sorted) {
    open = open.filter(({ prefix }) => contains(prefix, range.prefix));
    for (const outer of open) {
      if (outer.cluster === range.cluster) continue;
      const key = [outer.cluster, range.cluster].sort().join(' ');
      if (!found.has(key)) found.set(key, [outer, range]);
    }
    open.push(range);
  }
  return [...found.values()];
}

function touches(a: Prefix, b: Prefix): boolean {
  return contains(a, b) || contains(b, a);
}

function compare(a: Prefix, b: Prefix): number {
  if (a.family !== b.family) return a.family - b.family;
  for (const [index, word] of a.words.entries()) {
    const other = b.words[index] ?? 0;
    if (word !== other) return (word >>> 0) - (other >>> 0);
  }
  return a.bits - b.bits;
}
