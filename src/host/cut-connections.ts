import { run } from './command.ts';

/**
 * Ends every TCP connection that a server of this network namespace has accepted on a port (SOCK_DESTROY; needs
 * CAP_NET_ADMIN and a kernel with INET_DIAG_DESTROY, as Debian's is). Both sides see it at once; the server runs on.
 * @returns how many connections there still are of those that were there: more than none means that it cannot be done here
 * @throws CommandError
 */
export async function cutConnections(port: number): Promise<number> {
  const before = await connections(port);
  if (before.length === 0) return 0;
  await run('ss', ['-K', '-Htn', 'state', 'established', 'sport', '=', `:${port}`]);
  const after = new Set(await connections(port));
  return before.filter((connection) => after.has(connection)).length;
}

/** Local and remote address of each. */
async function connections(port: number): Promise<string[]> {
  const { stdout } = await run('ss', ['-Htn', 'state', 'established', 'sport', '=', `:${port}`]);
  return stdout
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => line.trim().split(/\s+/).slice(2, 4).join(' '));
}
