import { logPrefix, TOLD, VERDICT_LOG, VERDICT_POINTS, type VerdictPoint } from '../verdict-log.ts';

/**
 * Where verdicts are counted and told of: one chain for each kind and direction. What leads here is decided. Every packet is
 * counted; how many of them are told of is limited in the kernel, for each kind by itself, so that a flood of one kind costs
 * little and does not hide the others. An allowed connection comes here only while `watched` has its family.
 */
export interface Telling {
  /** Packets a second of each kind and direction; 0 tells of nothing. */
  readonly rate: number;
}

/** The kernel drops malformed packets by itself, before it comes to us. */
export const NFT_POINTS = VERDICT_POINTS.filter(({ kind }) => kind !== 'malformed');

export const VERDICT_COUNTERS: readonly string[] = [...NFT_POINTS.map(({ name }) => name), TOLD.in, TOLD.out];

export const VERDICT_SETS = `
  set audits { type nf_proto; }
  set watched { type nf_proto; }`;

function tell(point: VerdictPoint, { rate }: Telling): string {
  if (rate === 0) return '';
  const limit = `limit rate ${rate}/second burst ${Math.max(5, Math.ceil(rate / 2))} packets`;
  const { group, copyBytes } = VERDICT_LOG;
  return `
    ${limit} counter name ${TOLD[point.side]} log prefix "${logPrefix(point)}" group ${group} snaplen ${copyBytes}`;
}

/** What is not dropped here: it passes, or is refused by who sent it here. */
const ENDS: Readonly<Partial<Record<VerdictPoint['kind'], string>>> = { audited: '', allowed: '', no_backend: '' };

function chain(point: VerdictPoint, telling: Telling): string {
  const { kind, side, name } = point;
  const audit = kind === 'no_rule' ? `\n    meta nfproto @audits goto audited_${side}` : '';
  const end = ENDS[kind] ?? '\n    drop';
  return `
  chain ${name} {${audit}
    counter name ${name}${tell(point, telling)}${end}
  }`;
}

/** The chains, but those that are there already: elements lead to some of them, so they come before the elements. */
export function verdictChains(telling: Telling, present: readonly string[] = []): string {
  // Their order matters: a chain that another one leads to comes first.
  const missing = NFT_POINTS.filter(({ name }) => !present.includes(name));
  const sorted = [...missing].sort((a, b) => Number(b.kind === 'audited') - Number(a.kind === 'audited'));
  return sorted.map((point) => chain(point, telling)).join('');
}

/** Counters, which begin where they had been when the table was lost: they never go back. */
export function verdictCounters(counted: ReadonlyMap<string, { packets: number; bytes: number }>): string {
  return VERDICT_COUNTERS.map((name) => {
    const { packets, bytes } = counted.get(name) ?? { packets: 0, bytes: 0 };
    return `
  counter ${name} { packets ${packets} bytes ${bytes} }`;
  }).join('');
}
