import { parseSelector } from './selector.ts';

/** Whether a record of a list is wanted. */
export type RecordFilter = (record: object) => boolean;

const SAME = ['cluster', 'source', 'namespace', 'name', 'direction'] as const;

/** `cluster=b`, `source=clustermesh` and so on compare a field of the record; `selector=k8s:app=web` its labels. */
export function recordFilter(query: URLSearchParams): RecordFilter {
  const tests: RecordFilter[] = [];
  for (const field of SAME) {
    const wanted = query.get(field);
    if (wanted !== null) tests.push((record) => (record as Record<string, unknown>)[field] === wanted);
  }
  const selector = query.get('selector');
  if (selector !== null) {
    const matches = parseSelector(selector);
    tests.push((record) => 'labels' in record && Array.isArray(record.labels) && matches(record.labels as string[]));
  }
  return (record) => tests.every((test) => test(record));
}
