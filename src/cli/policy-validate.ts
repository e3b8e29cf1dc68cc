import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import type { Command } from 'commander';
import { API_VERSION } from '../api/types.ts';
import { MeshError, messageOf } from '../core/errors.ts';
import { printable } from '../observe/printable.ts';
import { checkText, type PolicyFinding } from '../policy/language/findings.ts';
import { type Call, command } from './command.ts';
import { EXIT, type ExitCode } from './exit-code.ts';
import { writeRecord } from './output.ts';
import { plural } from './words.ts';

const MAX_BYTES = 8 << 20;

export function validateCommand(): Command {
  return command({
    name: 'validate <files...>',
    summary: 'Check policy files as the agent would read them; needs no running agent',
    details:
      'A folder stands for its .yaml, .yml and .json files, "-" for standard input. Exit code 1 when one is not valid.',
    examples: [
      ['policy validate web.yaml', 'one file'],
      ['policy validate /etc/mesh-agent/policies.d', 'a folder'],
      ['policy validate -', 'standard input'],
    ],
    shared: ['output'],
    run: validate,
  });
}

async function validate(call: Call): Promise<ExitCode> {
  const findings: PolicyFinding[] = [];
  for (const given of call.args) {
    for (const file of await filesOf(given)) findings.push(...(await checkFile(file)));
  }
  const bad = findings.filter(({ severity }) => severity === 'error').length;
  await writeRecord({
    terminal: call.terminal,
    format: call.options.output,
    record: { apiVersion: API_VERSION, kind: 'PolicyValidation', ok: bad === 0, items: findings },
    table: () => `${findings.map(findingText).join('')}${summary(findings, bad)}\n`,
  });
  return bad === 0 ? EXIT.ok : EXIT.failure;
}

/** A folder stands for the policy files in it. */
export async function filesOf(given: string): Promise<string[]> {
  if (given === '-') return [given];
  try {
    if (!(await stat(given)).isDirectory()) return [given];
    const names = await readdir(given);
    return names
      .filter((name) => /\.(ya?ml|json)$/.test(name) && !name.startsWith('.'))
      .sort()
      .map((name) => join(given, name));
  } catch {
    // Reading it says why.
    return [given];
  }
}

async function checkFile(file: string): Promise<PolicyFinding[]> {
  try {
    return checkText(file, await readPolicyFile(file));
  } catch (error) {
    return [{ file, severity: 'error', message: messageOf(error) }];
  }
}

/** `-` is standard input. */
export async function readPolicyFile(file: string): Promise<string> {
  const content = file === '-' ? await buffer(process.stdin) : await readSized(file);
  return content.toString('utf8');
}

async function readSized(file: string): Promise<Buffer> {
  const { size } = await stat(file);
  if (size > MAX_BYTES)
    throw new MeshError('CFG-FILE', `it has ${size} bytes, more than the ${MAX_BYTES} that are read`);
  return readFile(file);
}

/** `web.yaml:12: document 2, spec.ingress[0]: error: ...`: editors jump to the first part. */
export function findingText(finding: PolicyFinding): string {
  const { file, line, document, path, policy, severity, message } = finding;
  const place = line === undefined ? file : `${file}:${line}`;
  const inside = [document === undefined ? undefined : `document ${document}`, policy, path].filter(
    (each) => each !== undefined,
  );
  const where = inside.length === 0 ? '' : ` ${inside.join(', ')}:`;
  return `${printable(`${place}:${where} ${severity}${message === undefined ? '' : `: ${message}`}`)}\n`;
}

function summary(findings: readonly PolicyFinding[], bad: number): string {
  const good = findings.filter(({ severity }) => severity === 'ok').length;
  return `${plural(good, 'object')} valid, ${bad} not valid`;
}
