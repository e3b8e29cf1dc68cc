import { type PolicyRow, PROTOCOL, type Protocol, type RuleRef } from '../result.ts';
import { type Contribution, refsOf } from './contribution.ts';
import { type Decision, decide, type Match, type Outcome } from './decision.ts';

/**
 * The rows of a class. Per protocol the port line is cut where an entry begins or ends, each piece is decided, equal
 * neighbors are joined, and the fewest rows are chosen that a look-up by exact port, range, protocol, any reads back:
 *
 *     decided   | none | allow    |deny| allow      | none |
 *     rows             [ allow  80-444              ]          one range ...
 *                                 [443]                        ... with an exact port in it
 */
export interface RowsInput {
  readonly contributions: readonly Contribution[];
  /** The rules that ask for default deny, when only audited policies do. */
  readonly auditedMiss: readonly RuleRef[] | undefined;
}

interface Piece {
  readonly first: number;
  last: number;
  readonly outcome: Outcome;
  /** May hold doubles. Arrays, not sets: there are two pieces for each port of each class. */
  by: readonly Contribution[];
}

interface Span extends Match {
  readonly first: number;
  readonly last: number;
}

const LAST = 65535;

export function computeRows(input: RowsInput): PolicyRow[] {
  const any: Match[] = [];
  const byProtocol = new Map<Protocol, Span[]>();
  for (const contribution of input.contributions) {
    if (contribution.ranges === undefined) any.push({ contribution, width: Number.POSITIVE_INFINITY });
    for (const { protocol, first, last } of contribution.ranges ?? []) {
      const spans = byProtocol.get(protocol) ?? [];
      byProtocol.set(protocol, spans);
      spans.push({ contribution, first, last, width: last - first + 1 });
    }
  }
  const base = decide(any, input.auditedMiss !== undefined);
  const rows = [...rowsOf(PROTOCOL.any, [piece(0, LAST, base)], 'none', input)];
  // Whatever else matches, such a denial stands; and what passes anyway, nothing else stops.
  if (any.some(({ contribution }) => isHard(contribution))) return rows;
  if (base.outcome === 'allow' && input.contributions.every(onlyAllows)) return rows;
  for (const [protocol, spans] of [...byProtocol].sort(([a], [b]) => a - b)) {
    rows.push(...rowsOf(protocol, decidePieces(spans, { any, base, input }), base.outcome, input));
  }
  return rows;
}

interface AnyProtocol {
  readonly any: readonly Match[];
  readonly base: Decision;
  readonly input: RowsInput;
}

/** Covers the whole port line, neighbors differ. */
function decidePieces(spans: readonly Span[], { any, base, input }: AnyProtocol): readonly Piece[] {
  const starts = [...spans].sort((a, b) => a.first - b.first);
  const points = cutsOf(spans);
  const isPlain = any.every(({ contribution }) => onlyAllows(contribution));
  const line = new PortLine(base);
  let open: Span[] = [];
  let next = 0;
  for (let index = 0; index < points.length; index++) {
    const first = points[index] as number;
    const last = (points[index + 1] ?? LAST + 1) - 1;
    if (first > last || first > LAST) continue;
    if (open.some((span) => span.last < first)) open = open.filter((span) => span.last >= first);
    const from = open.length;
    for (; next < starts.length && (starts[next] as Span).first <= first; next++) open.push(starts[next] as Span);
    const usual = usualOutcome(open, isPlain);
    if (usual !== undefined) line.addUsual({ first, last, outcome: usual }, open, from);
    else if (open.length === 0) line.add({ first, last, ...base });
    else line.add({ first, last, ...decide([...any, ...open], input.auditedMiss !== undefined) });
  }
  return line.pieces;
}

/** Collects pieces from left to right. */
class PortLine {
  readonly pieces: Piece[] = [];
  readonly #base: Decision;
  /** The list of the last piece, where it is ours to add to. */
  #growing: Contribution[] = [];

  constructor(base: Decision) {
    this.#base = base;
  }

  add({ first, last, outcome, by }: Piece): void {
    const before = this.pieces.at(-1);
    if (before?.outcome !== outcome) this.pieces.push({ first, last, outcome, by });
    else {
      before.last = last;
      before.by = merged(before.by, by);
    }
  }

  /** `from`: the first of `open` that was not open before. Nothing is listed twice: there may be thousands open. */
  addUsual(at: { first: number; last: number; outcome: 'allow' | 'deny' }, open: readonly Span[], from: number): void {
    const counts = at.outcome === 'deny' ? isHard : onlyAllows;
    const before = this.pieces.at(-1);
    const isNew = before?.outcome !== at.outcome;
    if (isNew) {
      this.#growing = at.outcome === 'allow' ? [...this.#base.by] : [];
      this.pieces.push({ ...at, by: this.#growing });
    } else {
      before.last = at.last;
      if (before.by !== this.#growing) before.by = this.#growing = [...before.by];
    }
    for (let i = isNew ? 0 : from; i < open.length; i++) {
      const { contribution } = open[i] as Span;
      if (counts(contribution)) this.#growing.push(contribution);
    }
  }
}

/** What needs no closer look: a denial in earnest, or nothing but plain allows. */
function usualOutcome(open: readonly Span[], isPlain: boolean): 'allow' | 'deny' | undefined {
  if (open.length === 0) return undefined;
  if (open.some(({ contribution }) => isHard(contribution))) return 'deny';
  return isPlain && open.every(({ contribution }) => onlyAllows(contribution)) ? 'allow' : undefined;
}

function isHard({ deny, audit }: Contribution): boolean {
  return deny && !audit;
}

function merged(a: readonly Contribution[], b: readonly Contribution[]): readonly Contribution[] {
  if (a.length === 0 || b.length === 0) return a.length === 0 ? b : a;
  return [...new Set([...a, ...b])];
}

/** Where entries begin, and behind where they end, sorted, with doubles: numbers in a typed array sort much faster. */
function cutsOf(spans: readonly Span[]): Uint32Array {
  const cuts = new Uint32Array(1 + 2 * spans.length);
  let at = 1;
  for (const { first, last } of spans) {
    cuts[at++] = first;
    cuts[at++] = last + 1;
  }
  return cuts.sort();
}

/** What every port is allowed anyway, such an entry does not change. */
function onlyAllows({ deny, authentication }: Contribution): boolean {
  return !deny && authentication === undefined;
}

function piece(first: number, last: number, { outcome, by }: Decision): Piece {
  return { first, last, outcome, by };
}

/** `under`: what a packet gets that no row of this protocol matches. */
function rowsOf(protocol: Protocol, pieces: readonly Piece[], under: Outcome, input: RowsInput): PolicyRow[] {
  const whole = cheapestWhole(pieces, under);
  const shown = pieces.filter(({ outcome }) => outcome !== (whole ?? under));
  const rows = protocol === PROTOCOL.icmp || protocol === PROTOCOL.icmpv6 ? shown : overlaid(shown);
  if (whole !== undefined) {
    const by = pieces.reduce<readonly Contribution[]>(
      (all, each) => (each.outcome === whole ? merged(all, each.by) : all),
      [],
    );
    rows.push({ first: 0, last: LAST, outcome: whole, by });
  }
  return rows.flatMap((each) => toRow(protocol, each, input)).sort((a, b) => a.first - b.first || a.last - b.last);
}

/** A row for the whole protocol pays when fewer pieces differ from it; it cannot stand under pieces without a row. */
function cheapestWhole(pieces: readonly Piece[], under: Outcome): Exclude<Outcome, 'none'> | undefined {
  const differing = (from: Outcome): number => pieces.filter(({ outcome }) => outcome !== from).length;
  let fewest = differing(under);
  let best: Exclude<Outcome, 'none'> | undefined;
  if (pieces.some(({ outcome }) => outcome === 'none')) return undefined;
  for (const each of ['allow', 'deny', 'audited-deny'] as const) {
    if (each === under || 1 + differing(each) >= fewest + (pieces.length === 1 ? 1 : 0)) continue;
    fewest = 1 + differing(each);
    best = each;
  }
  return best;
}

/** Joins the two sides of a single port into one range, with the port as a row of its own in it. */
function overlaid(pieces: readonly Piece[]): Piece[] {
  const rows: Piece[] = [];
  for (let index = 0; index < pieces.length; ) {
    const each = pieces[index++] as Piece;
    const row = { ...each };
    rows.push(row);
    for (;;) {
      const inner = pieces[index];
      const after = pieces[index + 1];
      if (inner === undefined || after === undefined || inner.first !== inner.last) break;
      if (row.last + 1 !== inner.first || inner.last + 1 !== after.first || after.outcome !== row.outcome) break;
      rows.push({ ...inner });
      row.last = after.last;
      row.by = merged(row.by, after.by);
      index += 2;
    }
  }
  return rows;
}

function toRow(protocol: Protocol, { first, last, outcome, by }: Piece, input: RowsInput): PolicyRow[] {
  if (outcome === 'none') return [];
  const rules = by.length === 0 ? (input.auditedMiss ?? []) : refsOf(by);
  const verdict = outcome === 'allow' ? 'allow' : 'deny';
  return [{ protocol, first, last, verdict, ...(outcome === 'audited-deny' ? { audit: true } : {}), rules }];
}

/** Equal for the kernel: the rules behind the rows do not count. */
export function sameRows(a: readonly PolicyRow[], b: readonly PolicyRow[]): boolean {
  return (
    a.length === b.length &&
    a.every((row, index) => {
      const other = b[index] as PolicyRow;
      return (
        row.protocol === other.protocol &&
        row.first === other.first &&
        row.last === other.last &&
        row.verdict === other.verdict &&
        row.audit === other.audit
      );
    })
  );
}
