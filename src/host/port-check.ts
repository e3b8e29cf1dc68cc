import { request } from 'node:http';
import { connect } from 'node:net';

/** One look at a port: a connection, or a request as well. */
export interface PortCheck {
  readonly address: string;
  readonly port: number;
  /** Of an HTTP GET; without one the connection alone counts. */
  readonly path?: string;
  readonly timeoutMs: number;
}

const REFUSALS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'connection refused',
  ECONNRESET: 'connection reset',
  EHOSTUNREACH: 'no route to host',
  ENETUNREACH: 'network unreachable',
  EADDRNOTAVAIL: 'address not available',
  ETIMEDOUT: 'no answer',
};

/**
 * Undefined when the port answers: it takes a connection, or answers the request with a status from 200 to 399, as
 * Kubernetes' probes have it; redirections are not followed. Else why not, in words. Never rejects.
 */
export function checkPort(check: PortCheck): Promise<string | undefined> {
  return check.path === undefined ? checkConnection(check) : checkRequest(check, check.path);
}

function checkConnection({ address, port, timeoutMs }: PortCheck): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ host: address, port });
    const done = (reason: string | undefined): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(reason);
    };
    const timer = setTimeout(() => done(`no connection within ${timeoutMs} ms`), timeoutMs);
    socket.on('connect', () => done(undefined));
    socket.on('error', (error) => done(reasonOf(error)));
  });
}

function checkRequest({ address, port, timeoutMs }: PortCheck, path: string): Promise<string | undefined> {
  return new Promise((resolve) => {
    const headers = { 'user-agent': 'mesh-agent', connection: 'close' };
    const sent = request({ host: address, port, path, headers, agent: false }, ({ statusCode = 0 }) =>
      done(statusCode >= 200 && statusCode < 400 ? undefined : `status ${statusCode}`),
    );
    const done = (reason: string | undefined): void => {
      clearTimeout(timer);
      // What else it has to say is of no interest, and may be long.
      sent.destroy();
      resolve(reason);
    };
    const timer = setTimeout(() => done(`no answer within ${timeoutMs} ms`), timeoutMs);
    sent.on('error', (error) => done(reasonOf(error)));
    sent.end();
  });
}

function reasonOf(error: Error): string {
  const { code } = error as NodeJS.ErrnoException;
  return REFUSALS[code ?? ''] ?? error.message.slice(0, 100);
}
