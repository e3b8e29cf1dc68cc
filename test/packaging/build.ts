import { spawn } from 'node:child_process';
import { join } from 'node:path';

const root = join(import.meta.dirname, '../..');

/**
 * Builds one kind of package, hardly compressed, into a folder, from an executable of its own there: as of a fixed commit, so
 * that nothing that happens to the repository meanwhile makes a difference. @returns its path
 */
export async function buildPackage(kind: 'deb' | 'rpm' | 'tar', folder: string, version?: string): Promise<string> {
  const env = {
    ...process.env,
    MESH_AGENT_COMMIT: '0123456789ab',
    SOURCE_DATE_EPOCH: '1700000000',
    MESH_AGENT_DIST: join(folder, `dist${version ?? ''}`),
    ...(version !== undefined && { MESH_AGENT_VERSION: version }),
  };
  const child = spawn(join(root, 'scripts/package.sh'), ['--fast', '--only', kind, '--out', folder], {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (data: Buffer) => {
      output += data.toString();
    });
  const code = await new Promise((resolve) => child.once('close', resolve));
  const path = /^package: (\/.*)$/m.exec(output)?.[1];
  if (code !== 0 || path === undefined) throw new Error(`scripts/package.sh: exit ${code}\n${output}`);
  return path;
}
