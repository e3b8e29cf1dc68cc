import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { checksFromJson, checksToJson, NO_REPORT, type ServingReport } from '../../kvstore/codec/serving-report.ts';
import { writeFileSafely } from '../../pki/files.ts';

/** What a restart must not forget: that its operator drained the machine, and what the checks said last. */
export type ServingState = Pick<ServingReport, 'drained' | 'checks'>;

export function servingFile(stateDir: string): string {
  return join(stateDir, 'serving.json');
}

const VERSION = 1;
const MAX_BYTES = 1 << 20;

/** Nothing where there is no file. @throws Error for one that cannot be read or is none of ours */
export async function readServing(path: string): Promise<ServingState> {
  try {
    const { size } = await stat(path);
    if (size > MAX_BYTES) throw new Error(`it has ${size} bytes, more than ${MAX_BYTES}`);
    const found = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown> | null;
    if (found?.version !== VERSION) throw new Error('it is no file of ours');
    const { drained } = found;
    if (drained !== undefined && (typeof drained !== 'number' || !Number.isSafeInteger(drained)))
      throw new Error('drained is no time');
    return { drained, checks: checksFromJson(found.checks, Date.now()) };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return NO_REPORT;
    throw error;
  }
}

/** @throws MeshError PKI-FILE */
export function writeServing(path: string, { drained, checks }: ServingState): Promise<void> {
  const content = { version: VERSION, ...(drained !== undefined && { drained }), checks: checksToJson(checks) };
  return writeFileSafely(path, `${JSON.stringify(content)}\n`);
}
