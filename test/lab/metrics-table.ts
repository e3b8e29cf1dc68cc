import { readFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Metric {
  readonly name: string;
  readonly type: string;
  readonly labels: readonly string[];
  readonly of: string;
  readonly help: string;
}

/** The table of `docs/metrics.md`, by name. */
export function documentedMetrics(): Map<string, Metric> {
  const page = readFileSync(join(import.meta.dirname, '../../docs/metrics.md'), 'utf8');
  const rows = page.split('\n').filter((line) => line.startsWith('| `'));
  return new Map(
    rows.map((row) => {
      const [, name = '', type = '', labels = '', of = '', help = ''] = row.split('|').map((cell) => cell.trim());
      const plain = name.replaceAll('`', '');
      return [plain, { name: plain, type, labels: labels.split(', ').filter((each) => each !== ''), of, help }];
    }),
  );
}
