import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildSync } from 'esbuild';

export interface Ran {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** The program as one file, as it is shipped: it starts four times as fast as its source. */
const folder = mkdtempSync(join(tmpdir(), 'mesh-cli-'));
const main = join(folder, 'main.cjs');
buildSync({
  entryPoints: [join(import.meta.dirname, '../../src/main.ts')],
  bundle: true,
  platform: 'node',
  format: 'cjs',
  outfile: main,
  external: ['*.node'],
  define: { 'import.meta.dirname': '__dirname', 'import.meta.filename': '__filename' },
  logLevel: 'silent',
});
process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
const TIMEOUT_MS = 60_000;

/** Runs the program with these arguments to its end, in an empty environment. The test's own servers go on meanwhile. */
export function runMain(
  args: readonly string[],
  options: { env?: NodeJS.ProcessEnv; input?: string } = {},
): Promise<Ran> {
  return runProgram(process.execPath, [main, ...args], options);
}

/** The same through a shell: `$MESH_AGENT status | head -1`. */
export function runShell(line: string): Promise<Ran> {
  return runProgram('bash', ['--norc', '-o', 'pipefail', '-c', line], {
    env: { MESH_AGENT: `${process.execPath} ${main}` },
  });
}

function runProgram(
  program: string,
  args: readonly string[],
  options: { env?: NodeJS.ProcessEnv; input?: string },
): Promise<Ran> {
  const child = spawn(program, args, { env: { PATH: process.env.PATH, ...options.env }, stdio: 'pipe' });
  const timer = setTimeout(() => child.kill('SIGKILL'), TIMEOUT_MS);
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  child.stdin.on('error', () => undefined);
  child.stdin.end(options.input ?? '');
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => {
      clearTimeout(timer);
      resolve({ code, stdout, stderr });
    });
  });
}
