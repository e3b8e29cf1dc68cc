import { randomBytes } from 'node:crypto';
import { chmodSync, chownSync, lstatSync, mkdirSync, readFileSync, renameSync, unlinkSync } from 'node:fs';
import { connect, type Server } from 'node:net';
import { dirname, join } from 'node:path';
import { MeshError, messageOf } from '../core/errors.ts';

export interface SocketOptions {
  readonly path: string;
  /** Group, by name or number, that may connect besides the owner. */
  readonly group?: string;
}

/** sun_path of Linux, without its end. */
const MAX_PATH_BYTES = 107;
const PROBE_MS = 2000;

/**
 * Binds a server to a socket that only its owner (and the group) may use. A socket that a dead agent left is replaced.
 *
 *   is one there? -> does it answer? -> bind beside it -> rights -> rename over it
 *
 * so that nobody ever finds it half made, or with rights that are too wide.
 * @returns takes the socket away, unless another agent's has come into its place
 * @throws MeshError API-BUSY when an agent answers there, API-SOCKET
 */
export async function bindSocket(server: Server, options: SocketOptions): Promise<() => void> {
  const { path } = options;
  const fail = (detail: string, cause?: unknown): MeshError =>
    new MeshError('API-SOCKET', detail, { place: path, cause });
  if (Buffer.byteLength(path) > MAX_PATH_BYTES) throw fail(`the path is longer than ${MAX_PATH_BYTES} bytes`);
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    await refuseLiving(path, fail);
    const beside = join(dirname(path), `.${randomBytes(4).toString('hex')}`);
    await listen(server, beside);
    try {
      if (options.group !== undefined) chownSync(beside, -1, groupNumber(options.group, fail));
      chmodSync(beside, options.group === undefined ? 0o600 : 0o660);
      const own = lstatSync(beside).ino;
      renameSync(beside, path);
      return () => removeOwn(path, own);
    } catch (error) {
      server.close();
      throw error;
    }
  } catch (error) {
    throw error instanceof MeshError ? error : fail(messageOf(error), error);
  }
}

async function refuseLiving(path: string, fail: (detail: string) => MeshError): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket()) throw fail('something else than a socket is in its place');
  if (await answers(path)) throw new MeshError('API-BUSY', '', { place: path });
}

/** Whether someone listens. One who is too busy to answer is alive as well. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const done = (alive: boolean): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(alive);
    };
    const timer = setTimeout(() => done(true), PROBE_MS);
    socket.once('connect', () => done(true));
    socket.once('error', (error: NodeJS.ErrnoException) =>
      done(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT'),
    );
  });
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

function groupNumber(group: string, fail: (detail: string) => MeshError): number {
  if (/^[0-9]{1,9}$/.test(group)) return Number(group);
  const line = readFileSync('/etc/group', 'utf8')
    .split('\n')
    .find((each) => each.startsWith(`${group}:`));
  const number = line?.split(':')[2];
  if (number === undefined) throw fail(`there is no group ${JSON.stringify(group)} on this machine`);
  return Number(number);
}

function removeOwn(path: string, own: number): void {
  try {
    if (lstatSync(path).ino === own) unlinkSync(path);
  } catch {
    // It is gone already, or its folder is: that is what we want.
  }
}
