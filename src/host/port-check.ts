import { request } from 'node:http';
import { connect } from 'node:net';

/** One look at a port: a connection, or a request as well. */
export interface PortCheck {
  readonly address: string;
  readonly port: number;
  /** Of an HTTP GET; without one the connection alone counts. */
  readonly path?: string;
  readonly timeoutMs: number;
  /** Nobody wants to know any more. */
  readonly signal?: AbortSignal;
}

/** `untried`: this machine could not look, which says nothing of the port. */
export type PortResult = 'answers' | { readonly failed: string } | { readonly untried: string };

/** Why a connection was not taken, by the code of the error. */
export const REFUSALS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'connection refused',
  ECONNRESET: 'connection reset',
  EHOSTUNREACH: 'no route to host',
  ENETUNREACH: 'network unreachable',
  ETIMEDOUT: 'no answer',
};
const OWN_FAULTS: Readonly<Record<string, string>> = {
  EADDRNOTAVAIL: 'address not available',
  EMFILE: 'too many open files',
  ENFILE: 'too many open files',
  ENOBUFS: 'no memory for it',
  ENOMEM: 'no memory for it',
};

/** Undefined when the port answers, else why not, in words. Never rejects. */
export async function checkPort(check: PortCheck): Promise<string | undefined> {
  const result = await tryPort(check);
  if (result === 'answers') return undefined;
  return 'failed' in result ? result.failed : result.untried;
}

/**
 * A port answers when it takes a connection, or answers the request with a status from 200 to 399, as Kubernetes' probes
 * have it; redirections are not followed. Never rejects.
 */
export function tryPort(check: PortCheck): Promise<PortResult> {
  return new Promise((resolve) => {
    const { timeoutMs, signal } = check;
    const done = (result: PortResult): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', aborted);
      // What else it has to say is of no interest, and may be long. Closed, not reset: not every server takes that lightly.
      opened.destroy();
      resolve(result);
    };
    const aborted = (): void => done({ untried: 'ended' });
    const what = check.path === undefined ? 'connection' : 'answer';
    const timer = setTimeout(() => done({ failed: `no ${what} within ${timeoutMs} ms` }), timeoutMs);
    signal?.addEventListener('abort', aborted, { once: true });
    const opened = check.path === undefined ? openConnection(check, done) : openRequest(check, check.path, done);
    opened.on('error', (error) => done(resultOf(error)));
  });
}

function openConnection({ address, port }: PortCheck, done: (result: PortResult) => void) {
  return connect({ host: address, port }).on('connect', () => done('answers'));
}

function openRequest({ address, port }: PortCheck, path: string, done: (result: PortResult) => void) {
  const headers = { 'user-agent': 'mesh-agent', connection: 'close' };
  const sent = request({ host: address, port, path, headers, agent: false }, ({ statusCode = 0 }) =>
    done(statusCode >= 200 && statusCode < 400 ? 'answers' : { failed: `status ${statusCode}` }),
  );
  sent.end();
  return sent;
}

function resultOf(error: Error): PortResult {
  const code = (error as NodeJS.ErrnoException).code ?? '';
  const own = OWN_FAULTS[code];
  return own === undefined ? { failed: REFUSALS[code] ?? error.message.slice(0, 100) } : { untried: own };
}
