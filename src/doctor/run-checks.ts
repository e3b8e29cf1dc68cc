import type { CheckRecord } from '../api/doctor-types.ts';
import { messageOf } from '../core/errors.ts';
import { type Check, Findings } from './check.ts';

export interface RunOptions {
  /** For one check, milliseconds. */
  readonly checkMs: number;
  /** For all of them, milliseconds. */
  readonly totalMs: number;
  /** So many run at once. */
  readonly width?: number;
  readonly onProgress?: (done: number, of: number, title: string) => void;
}

const WIDTH = 8;

/**
 * Runs all checks, each within its time. One that takes too long, or throws, is a finding of its own and never holds up
 * the others: what it still does afterwards is not waited for. Records come in the order of the checks.
 */
export async function runChecks(checks: readonly Check[], options: RunOptions): Promise<CheckRecord[]> {
  const deadline = performance.now() + options.totalMs;
  const found: (readonly CheckRecord[])[] = checks.map(() => []);
  let next = 0;
  let done = 0;
  const work = async (): Promise<void> => {
    for (let index = next++; index < checks.length; index = next++) {
      const check = checks[index] as Check;
      options.onProgress?.(done, checks.length, check.title);
      found[index] = await runOne(check, Math.min(options.checkMs, deadline - performance.now()));
      done++;
    }
  };
  await Promise.all(Array.from({ length: options.width ?? WIDTH }, work));
  return found.flat();
}

async function runOne(check: Check, ms: number): Promise<readonly CheckRecord[]> {
  const findings = new Findings(check);
  if (ms <= 0) {
    findings.skipped('there was no time left for it');
    return findings.list;
  }
  const late = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), ms);
  });
  try {
    const records = await Promise.race([(async () => check.look(late.signal))(), limit]);
    if (records !== undefined) return records;
    findings.warning('DOC-SLOW', `${check.title}: no result within ${Math.round(ms / 100) / 10} s`);
  } catch (error) {
    findings.error('DOC-FAILED', `${check.title}: ${messageOf(error)}`);
  } finally {
    clearTimeout(timer);
    late.abort();
  }
  return findings.list;
}
