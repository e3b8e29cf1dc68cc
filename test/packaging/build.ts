import { spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';

const root = join(import.meta.dirname, '../..');

/**
 * Builds one kind of package, hardly compressed, into a folder, from an executable of its own there: as of a fixed commit, so
 * that nothing that happens to the repository meanwhile makes a difference. @returns its path
 */
export async function buildPackage(kind: 'deb' | 'rpm' | 'tar', folder: string, version?: string): Promise<string> {
  const output = await run('package.sh', ['--only', kind, '--out', folder], folder, version);
  const path = /^package: (\/.*)$/m.exec(output)?.[1];
  if (path === undefined) throw new Error(output);
  return path;
}

/** The same for a whole release of this machine's architecture. @returns its folder */
export async function buildRelease(folder: string, key: string): Promise<string> {
  mkdirSync(folder);
  const release = join(folder, 'release');
  const arch = process.arch === 'arm64' ? 'arm64' : 'x64';
  await run('release.sh', ['--arch', arch, '--key', key, '--out', release], folder);
  return release;
}

async function run(script: string, args: readonly string[], folder: string, version?: string): Promise<string> {
  const env = {
    ...process.env,
    MESH_AGENT_COMMIT: '0123456789ab',
    SOURCE_DATE_EPOCH: '1700000000',
    MESH_AGENT_DIST: join(folder, `dist${version ?? ''}`),
    ...(version !== undefined && { MESH_AGENT_VERSION: version }),
  };
  const child = spawn(join(root, 'scripts', script), ['--fast', ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (data: Buffer) => {
      output += data.toString();
    });
  const code = await new Promise((resolve) => child.once('close', resolve));
  if (code !== 0) throw new Error(`scripts/${script}: exit ${code}\n${output}`);
  return output;
}
