import { lookup } from 'node:dns/promises';
import { connect as connectTcp, isIP, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { type ErrorCode, MeshError, messageOf } from '../core/errors.ts';
import { ownCertificateProblem, secureSocket, type TlsMaterial } from './tls.ts';

export interface ProbeTarget {
  readonly host: string;
  readonly port: number;
  readonly tls: TlsMaterial | undefined;
  readonly timeoutMs: number;
  readonly endpoint: string;
  /** What the failed connection itself said. */
  readonly cause: unknown;
  readonly signal: AbortSignal;
}

/** How long a server may stay silent after a handshake before it counts as content with us, milliseconds. */
const QUIET_MS = 300;

/** Finds out step by step (name, TCP, TLS, our certificate, protocol) why an endpoint could not be reached. */
export async function findCause(target: ProbeTarget): Promise<MeshError> {
  const fail = (code: ErrorCode, detail: string): MeshError =>
    new MeshError(code, detail, { place: target.endpoint, cause: target.cause });
  try {
    if (isIP(target.host) === 0) await lookup(target.host);
  } catch (error) {
    return fail('KVS-DNS', messageOf(error));
  }
  const result = target.tls === undefined ? await probeTcp(target) : await probeTls(target, target.tls);
  if (result === 'silent') return fail('KVS-TIMEOUT', `no answer within ${target.timeoutMs / 1000} s`);
  if (result === 'talks') return fail('KVS-NOT-ETCD', 'it answers, but not in HTTP/2');
  const code = codeOf(result, target.tls !== undefined);
  if (target.tls === undefined && code === 'KVS-LOST' && (await speaksTls(target)))
    return fail('KVS-NOT-PLAIN', result.message);
  const own = target.tls && ownCertificateProblem(target.tls);
  if (own !== undefined && (code === 'KVS-TLS-CLIENT' || code === 'KVS-TLS-EXPIRED'))
    return fail('KVS-TLS-EXPIRED', own);
  return fail(code, result.message);
}

type Problem = Error & { code?: string };
/** `silent`: connected, then nothing. `talks`: it said something after our greeting. */
type Result = Problem | 'silent' | 'talks';

// The greeting of HTTP/2 with an empty SETTINGS frame: whoever speaks it answers with SETTINGS at once.
const GREETING = Buffer.concat([
  Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
  Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]),
]);

function probeTcp(target: ProbeTarget): Promise<Result> {
  const socket = connectTcp({ host: target.host, port: target.port });
  return outcome(socket, 'connect', target);
}

function probeTls(target: ProbeTarget, tls: TlsMaterial): Promise<Result> {
  return outcome(secureSocket(tls, target.host, { port: target.port }), 'secureConnect', target);
}

/** Under TLS 1.3 a refusal of our certificate arrives only after the handshake: so it is waited for after the greeting. */
function outcome(socket: Socket, connected: 'connect' | 'secureConnect', target: ProbeTarget): Promise<Result> {
  return new Promise((resolve) => {
    let open = false;
    const done = (result: Result): void => {
      clearTimeout(timer);
      target.signal.removeEventListener('abort', abort);
      socket.destroy();
      resolve(result);
    };
    const closed = (): Problem => Object.assign(new Error('the connection was closed at once'), { code: 'ECONNRESET' });
    const abort = (): void => done(closed());
    const timer = setTimeout(() => done('silent'), target.timeoutMs);
    target.signal.addEventListener('abort', abort, { once: true });
    socket.on('error', done);
    socket.once(connected, () => {
      open = true;
      socket.write(GREETING);
    });
    socket.once('data', (data: Buffer) => {
      // SETTINGS: this is HTTP/2, so what failed was slow rather than foreign; a refusal may still follow.
      const settings = data.length >= 9 && data[3] === 4;
      if (settings) setTimeout(() => done('silent'), QUIET_MS);
      else done(open && isAlert(data) ? alertProblem() : 'talks');
    });
    socket.once('close', () => done(closed()));
  });
}

/** A TLS record of the type alert, in plain text: the answer of a TLS server to something that is no TLS. */
function isAlert(data: Buffer): boolean {
  return data[0] === 21 && data[1] === 3;
}

function alertProblem(): Problem {
  return Object.assign(new Error('it answers with a TLS alert'), { code: 'ECONNRESET' });
}

/** Whether a TLS handshake gets an answer; nothing is sent through it, so nothing needs to be verified. */
function speaksTls(target: ProbeTarget): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connectTls({
      host: target.host,
      port: target.port,
      rejectUnauthorized: true,
      ALPNProtocols: ['h2'],
    });
    const done = (speaks: boolean): void => {
      socket.destroy();
      resolve(speaks);
    };
    socket.setTimeout(Math.min(2000, target.timeoutMs), () => done(false));
    // A certificate that we do not trust, or a demand for ours, proves TLS as well as a finished handshake.
    socket.once('error', (problem: Problem) => done(/CERT|SIGN|ISSUER|ALTNAME|ALERT/i.test(`${problem.code}`)));
    socket.once('secureConnect', () => done(true));
  });
}

function codeOf(problem: Problem, tls: boolean): ErrorCode {
  const code = problem.code ?? '';
  const text = `${code} ${problem.message}`;
  if (code === 'ECONNREFUSED') return 'KVS-REFUSED';
  if (code === 'ETIMEDOUT' || code === 'EHOSTUNREACH' || code === 'ENETUNREACH') return 'KVS-TIMEOUT';
  if (/CERT_HAS_EXPIRED|CERT_NOT_YET_VALID|certificate expired|expired certificate/i.test(text))
    return 'KVS-TLS-EXPIRED';
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') return 'KVS-TLS-NAME';
  if (/WRONG_VERSION_NUMBER|packet length too long|unexpected message|HTTP_REQUEST/i.test(text)) return 'KVS-NOT-TLS';
  if (/ALERT|bad certificate|handshake failure|certificate required|unknown ca/i.test(text)) return 'KVS-TLS-CLIENT';
  if (/CERT|ISSUER|SIGNED|VERIFY/.test(code)) return 'KVS-TLS-UNTRUSTED';
  // A server that speaks something else closes the connection in the middle of the handshake.
  return tls && (code === 'ECONNRESET' || code === 'EPROTO') ? 'KVS-NOT-TLS' : 'KVS-LOST';
}
