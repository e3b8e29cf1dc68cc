import { X509Certificate } from 'node:crypto';
import { request as sendRequest } from 'node:https';
import { isIP } from 'node:net';
import { connect, type DetailedPeerCertificate } from 'node:tls';
import { VERSION_HEADER } from '../../api/enrolment.ts';
import { ERROR_CODES, type ErrorCode, MeshError, messageOf } from '../../core/errors.ts';
import { publicKeyHash } from '../../pki/keys.ts';
import { toPem } from '../../pki/pem.ts';

export interface HubAddress {
  /** `https://host:port` */
  readonly url: string;
  /** For everything, from the name to the last byte; 20 s. */
  readonly timeoutMs?: number;
}

const TIMEOUT_MS = 20_000;
const MAX_ANSWER = 256 << 10;
const MAX_CHAIN = 8;

/**
 * The authority that signed what the hub shows, if it is the one that the hash names. Nothing is said to whoever answers,
 * and nothing else of what it says is believed: with this authority the connection that counts is verified.
 * @throws MeshError JOIN-PIN, JOIN-UNREACHABLE
 */
export async function findAuthority(hub: HubAddress, caHash: string): Promise<string> {
  const { host, port } = placeOf(hub.url);
  const chain = await new Promise<X509Certificate[]>((resolve, reject) => {
    const socket = connect({
      host,
      port,
      ...(isIP(host) === 0 && { servername: host }),
      // What is shown is looked at below, by its public key.
      rejectUnauthorized: false,
      minVersion: 'TLSv1.2',
      ALPNProtocols: ['http/1.1'],
    });
    const fail = (cause: Error): void => {
      socket.destroy();
      reject(failure(cause, hub.url));
    };
    const timer = setTimeout(() => fail(new Error('it does not answer in time')), hub.timeoutMs ?? TIMEOUT_MS);
    socket.once('close', () => clearTimeout(timer));
    socket.once('error', fail);
    socket.once('secureConnect', () => {
      const found = chainOf(socket.getPeerCertificate(true));
      socket.destroy();
      resolve(found);
    });
  });
  const authority = chain.find((certificate) => certificate.ca && hashOf(certificate) === caHash);
  if (authority !== undefined) return toPem('CERTIFICATE', authority.raw);
  const shown = chain.map((certificate) => `${certificate.subject.replaceAll('\n', ', ')} (${hashOf(certificate)})`);
  throw new MeshError('JOIN-PIN', `the token wants ${caHash}, shown are ${shown.join(', ') || 'none'}`, {
    place: hub.url,
  });
}

function chainOf(first: DetailedPeerCertificate): X509Certificate[] {
  const found: X509Certificate[] = [];
  let each: DetailedPeerCertificate | undefined = first;
  while (each?.raw !== undefined && found.length < MAX_CHAIN) {
    try {
      found.push(new X509Certificate(each.raw));
    } catch {
      break;
    }
    // The last one is its own issuer.
    each = each.issuerCertificate === each ? undefined : each.issuerCertificate;
  }
  return found;
}

/** A key that OpenSSL cannot read is none that we look for. */
function hashOf(certificate: X509Certificate): string {
  try {
    return publicKeyHash(certificate.publicKey);
  } catch {
    return 'unreadable key';
  }
}

export interface HubRequest extends HubAddress {
  /** PEM: the one authority that is trusted. The name is checked, too. */
  readonly ca: string;
  readonly path: string;
  /** Sent as JSON by POST; without it by GET. */
  readonly body?: object;
  /** PEM of certificate and key, to show who we are. */
  readonly identity?: { readonly cert: string; readonly key: string };
}

export interface HubAnswer {
  readonly text: string;
  /** What the hub takes for the time, milliseconds since the epoch; undefined when it does not say. */
  readonly time: number | undefined;
  /** Of the hub's program; undefined when it does not say. */
  readonly version: string | undefined;
}

/** Asks a hub. @throws MeshError with the code of the hub's refusal, JOIN-UNREACHABLE, JOIN-PIN, JOIN-SERVER, JOIN-CLOCK */
export async function askHub(request: HubRequest): Promise<HubAnswer> {
  const { host, port } = placeOf(request.url);
  const text = request.body === undefined ? undefined : JSON.stringify(request.body);
  const headers =
    text === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
  const { status, answer, time, version } = await new Promise<RawAnswer>((resolve, reject) => {
    const sent = sendRequest({
      host,
      port,
      ...(isIP(host) === 0 && { servername: host }),
      path: request.path,
      method: text === undefined ? 'GET' : 'POST',
      headers,
      agent: false,
      ca: request.ca,
      ...request.identity,
      minVersion: 'TLSv1.2',
      // Said aloud, since NODE_TLS_REJECT_UNAUTHORIZED=0 in the environment would turn it off.
      rejectUnauthorized: true,
    });
    const fail = (cause: Error): void => {
      sent.destroy();
      reject(failure(cause, request.url));
    };
    const timer = setTimeout(() => fail(new Error('it does not answer in time')), request.timeoutMs ?? TIMEOUT_MS);
    sent.once('close', () => clearTimeout(timer));
    sent.on('error', fail);
    sent.on('response', (response) => {
      const chunks: Buffer[] = [];
      let length = 0;
      response.on('data', (chunk: Buffer) => {
        length += chunk.length;
        if (length > MAX_ANSWER) fail(new Error('its answer is too long'));
        else chunks.push(chunk);
      });
      response.on('error', fail);
      response.on('aborted', () => fail(new Error('its answer ends in the middle')));
      response.on('end', () => {
        const stated = Date.parse(response.headers.date ?? '');
        resolve({
          status: response.statusCode ?? 0,
          answer: Buffer.concat(chunks).toString('utf8'),
          time: Number.isNaN(stated) ? undefined : stated,
          version: versionIn(response.headers[VERSION_HEADER]),
        });
      });
    });
    sent.end(text);
  });
  if (status === 200) return { text: answer, time, version };
  throw refusal(answer, status, request.url);
}

interface RawAnswer extends Omit<HubAnswer, 'text'> {
  readonly status: number;
  readonly answer: string;
}

function versionIn(header: string | string[] | undefined): string | undefined {
  return typeof header === 'string' && /^[0-9A-Za-z.+~-]{1,64}$/.test(header) ? header : undefined;
}

/** The hub's code, when this version knows it; its words, cut short. */
function refusal(text: string, status: number, place: string): MeshError {
  let found: { code?: unknown; message?: unknown } = {};
  try {
    found = (JSON.parse(text) ?? {}) as typeof found;
  } catch {
    // It is no hub, or a very broken one.
  }
  const { code, message } = found;
  const words = typeof message === 'string' ? message.slice(0, 300) : `status ${status}`;
  if (typeof code !== 'string' || !Object.hasOwn(ERROR_CODES, code) || !/^(JOIN|PKI)-/.test(code))
    return new MeshError(status >= 500 ? 'JOIN-BUSY' : 'JOIN-REQUEST', words, { place });
  const { summary } = ERROR_CODES[code as ErrorCode];
  const detail = words.startsWith(summary) ? words.slice(summary.length).replace(/^: /, '') : words;
  return new MeshError(code as ErrorCode, detail, { place });
}

const CLOCK = new Set(['CERT_NOT_YET_VALID', 'CERT_HAS_EXPIRED']);
const NOT_THE_HUB = new Set([
  'SELF_SIGNED_CERT_IN_CHAIN',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'CERT_SIGNATURE_FAILURE',
  'CERT_UNTRUSTED',
]);
const REASONS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'nothing listens there',
  ENOTFOUND: 'its name cannot be resolved',
  EAI_AGAIN: 'its name cannot be resolved now',
  ECONNRESET: 'it ended the connection',
  ETIMEDOUT: 'it does not answer in time',
  EHOSTUNREACH: 'there is no way to it',
  ENETUNREACH: 'there is no way to it',
};

function failure(cause: Error, place: string): MeshError {
  const code = (cause as NodeJS.ErrnoException).code ?? '';
  if (CLOCK.has(code)) {
    const what = code === 'CERT_HAS_EXPIRED' ? 'is expired' : 'is not valid yet';
    return new MeshError('JOIN-CLOCK', `the certificate of the hub ${what} at ${new Date().toISOString()}`, {
      place,
      cause,
    });
  }
  if (NOT_THE_HUB.has(code)) return new MeshError('JOIN-PIN', messageOf(cause), { place, cause });
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID' || code === 'INVALID_PURPOSE' || code === 'INVALID_CA')
    return new MeshError('JOIN-SERVER', messageOf(cause), { place, cause });
  if (code === 'EPROTO' || code.startsWith('ERR_SSL'))
    return new MeshError('JOIN-UNREACHABLE', 'it does not speak TLS as a hub does', { place, cause });
  return new MeshError('JOIN-UNREACHABLE', REASONS[code] ?? messageOf(cause), { place, cause });
}

function placeOf(url: string): { host: string; port: number } {
  const { hostname, port } = new URL(url);
  return { host: hostname.replace(/^\[|\]$/g, ''), port: port === '' ? 443 : Number(port) };
}
