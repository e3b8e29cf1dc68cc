import { lookup } from 'node:dns/promises';
import { connect as connectTcp, isIP } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { type ErrorCode, MeshError, messageOf } from '../core/errors.ts';
import type { TlsMaterial } from './transport.ts';

export interface ProbeTarget {
  readonly host: string;
  readonly port: number;
  readonly tls: TlsMaterial | undefined;
  readonly timeoutMs: number;
  readonly endpoint: string;
  /** What the failed connection itself said. */
  readonly cause: unknown;
}

/** Finds out step by step (name, TCP, TLS, our certificate) why an endpoint could not be reached. */
export async function findCause(target: ProbeTarget): Promise<MeshError> {
  const fail = (code: ErrorCode, detail: string): MeshError =>
    new MeshError(code, detail, { place: target.endpoint, cause: target.cause });
  try {
    if (isIP(target.host) === 0) await lookup(target.host);
  } catch (error) {
    return fail('KVS-DNS', messageOf(error));
  }
  const problem = target.tls === undefined ? await probeTcp(target) : await probeTls(target, target.tls);
  if (problem === undefined) return fail('KVS-TIMEOUT', `no answer within ${target.timeoutMs / 1000} s`);
  return fail(codeOf(problem, target.tls !== undefined), problem.message);
}

type Problem = Error & { code?: string };

function probeTcp(target: ProbeTarget): Promise<Problem | undefined> {
  return new Promise((resolve) => {
    const socket = connectTcp({ host: target.host, port: target.port, timeout: target.timeoutMs });
    const done = (problem?: Problem): void => {
      socket.destroy();
      resolve(problem);
    };
    socket.once('connect', () => done()).once('error', done);
    socket.once('timeout', () => done());
  });
}

/** After the handshake waits a little: under TLS 1.3 a refusal of our certificate arrives only then. */
function probeTls(target: ProbeTarget, tls: TlsMaterial): Promise<Problem | undefined> {
  return new Promise((resolve) => {
    const done = (problem?: Problem): void => {
      socket.destroy();
      resolve(problem);
    };
    const material = {
      ...(tls.ca && { ca: tls.ca }),
      ...(tls.cert && { cert: tls.cert }),
      ...(tls.key && { key: tls.key }),
    };
    let socket: ReturnType<typeof connectTls>;
    try {
      const servername = isIP(target.host) === 0 ? { servername: target.host } : {};
      socket = connectTls({ host: target.host, port: target.port, ALPNProtocols: ['h2'], ...servername, ...material });
    } catch (error) {
      // A key or certificate that is no PEM throws at once.
      resolve(Object.assign(error as Error, { code: 'ERR_OWN_CERTIFICATE' }));
      return;
    }
    socket.setTimeout(target.timeoutMs, () => done());
    socket.once('error', done);
    socket.once('secureConnect', () => socket.setTimeout(300, () => done()));
  });
}

function codeOf(problem: Problem, tls: boolean): ErrorCode {
  const code = problem.code ?? '';
  if (code === 'ECONNREFUSED') return 'KVS-REFUSED';
  if (code === 'ETIMEDOUT' || code === 'EHOSTUNREACH' || code === 'ENETUNREACH') return 'KVS-TIMEOUT';
  if (
    code === 'CERT_HAS_EXPIRED' ||
    code === 'CERT_NOT_YET_VALID' ||
    /certificate expired|expired certificate/i.test(problem.message)
  )
    return 'KVS-TLS-EXPIRED';
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') return 'KVS-TLS-NAME';
  if (/WRONG_VERSION_NUMBER|packet length too long|unexpected message/i.test(`${code} ${problem.message}`))
    return 'KVS-NOT-TLS';
  if (
    /ERR_OWN_CERTIFICATE|ALERT|bad certificate|handshake failure|certificate required|unknown ca/i.test(
      `${code} ${problem.message}`,
    )
  )
    return 'KVS-TLS-CLIENT';
  if (/CERT|ISSUER|SIGNED|VERIFY/.test(code)) return 'KVS-TLS-UNTRUSTED';
  // A server that speaks something else closes the connection in the middle of the handshake.
  return tls && (code === 'ECONNRESET' || code === 'EPROTO') ? 'KVS-NOT-TLS' : 'KVS-LOST';
}
