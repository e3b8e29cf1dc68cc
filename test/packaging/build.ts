import { spawn } from 'node:child_process';
import { join } from 'node:path';

const root = join(import.meta.dirname, '../..');

/** Builds one kind of package, hardly compressed, into a folder. @returns its path */
export async function buildPackage(kind: 'deb' | 'rpm', folder: string, version?: string): Promise<string> {
  const env = {
    ...process.env,
    ...(version !== undefined && { MESH_AGENT_VERSION: version, MESH_AGENT_DIST: join(folder, `dist-${version}`) }),
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
