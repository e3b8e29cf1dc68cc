import type { CheckGroup, CheckRecord, DoctorRecord, Verdict } from '../../api/doctor-types.ts';
import { printable } from '../../observe/printable.ts';
import { painter, type Tone } from '../paint.ts';
import { TableWriter } from '../table.ts';
import { plural } from '../words.ts';

export interface DoctorTextOptions {
  /** Every record in full, also those that are fine. */
  readonly wide: boolean;
  readonly color: boolean;
}

const TONES: Readonly<Record<Verdict, Tone>> = { ok: 'green', warning: 'yellow', error: 'red', skipped: 'dim' };
const GROUPS: readonly CheckGroup[] = [
  'configuration',
  'agent',
  'machine',
  'stores',
  'clusters',
  'network',
  'services',
  'policies',
];

/** What to do first, then each trouble with what follows from it, then all that was looked at, part by part. */
export function doctorText(record: DoctorRecord, { wide, color }: DoctorTextOptions): string {
  const paint = painter(color);
  const troubles = record.checks.filter(({ code }) => code !== undefined);
  const lines: string[] = [];
  const roots = troubles.filter(({ because }) => because === undefined);
  const [first] = roots;
  if (first === undefined) lines.push(paint('Nothing is wrong.', 'green'));
  else lines.push(paint(`First: ${printable(first.remedy ?? '')}`, 'bold'));
  const { error, warning } = record.counts;
  const all = `${plural(record.checks.length, 'check')} in ${(record.tookMs / 1000).toFixed(1)} s`;
  lines.push(`${plural(error, 'error')}, ${plural(warning, 'warning')}, ${record.counts.skipped} skipped; ${all}`, '');
  for (const root of roots) {
    lines.push(...troubleLines(root, paint(root.verdict, TONES[root.verdict]), ''));
    lines.push(`    do: ${printable(root.remedy ?? '')}`);
    for (const each of followers(root, troubles)) lines.push(...troubleLines(each, 'follows', '    '));
    lines.push('');
  }
  return `${lines.join('\n')}\n${groupText(record.checks, wide, paint)}`;
}

/** Everything that follows from it, directly or by way of others. */
function followers(root: CheckRecord, troubles: readonly CheckRecord[]): CheckRecord[] {
  const found = new Set<CheckRecord>([root]);
  for (const cause of found)
    for (const each of troubles)
      if (each.because?.code === cause.code && each.because?.subject === cause.subject) found.add(each);
  found.delete(root);
  return [...found];
}

function troubleLines(record: CheckRecord, word: string, indent: string): string[] {
  const { code = '', subject, text, place } = record;
  const what = subject === '' ? '' : `${printable(subject)}: `;
  const head = `${indent}${word} ${code}  ${what}${printable(text)}`;
  return place === undefined ? [head] : [head, `${indent}    at: ${printable(place)}`];
}

function groupText(checks: readonly CheckRecord[], wide: boolean, paint: (text: string, tone: Tone) => string): string {
  const table = new TableWriter(['PART', 'CHECK', 'VERDICT', 'SUBJECT', 'SEEN']);
  const rows = GROUPS.flatMap((group) =>
    checks
      .filter((each) => each.group === group && (wide || each.code === undefined))
      .map(({ check, verdict, subject, text, code }) => [
        group,
        check,
        code === undefined ? verdict : `${verdict} ${code}`,
        subject,
        text,
      ]),
  );
  return paint(table.write(rows), 'dim');
}
