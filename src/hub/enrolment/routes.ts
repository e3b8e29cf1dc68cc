import type { IncomingMessage, ServerResponse } from 'node:http';
import { ENROLMENT_PATHS, type EnrolmentRefusal, VERSION_HEADER } from '../../api/enrolment.ts';
import { ERROR_CODES, type ErrorCode, MeshError, messageOf } from '../../core/errors.ts';
import { TokenBucket } from '../../core/token-bucket.ts';
import { build } from '../../host/build.ts';
import { AddressBuckets } from './address-buckets.ts';
import type { EnrolmentContext } from './context.ts';
import { sendFile } from './download.ts';
import { joinMachine } from './join.ts';
import { endLingering, LINGER, type LingerLimits } from './linger.ts';
import { CHECKSUMS, type Packages } from './packages.ts';
import { leaveMachine, type Peer, renewMachine } from './renew.ts';
import { shownCertificate } from './server.ts';
import { Refusal } from './sign.ts';

export interface EnrolmentRoutesOptions {
  readonly context: EnrolmentContext;
  readonly packages: Packages;
  readonly installScript: () => string;
  /** Whether the store can be asked. */
  readonly ready: () => boolean;
  readonly limits?: Partial<RequestLimits>;
}

export interface RequestLimits extends LingerLimits {
  readonly bodyBytes: number;
  /** Acts (joining, renewing, leaving) at once; so many more may wait. */
  readonly acts: number;
  readonly waiting: number;
  readonly downloads: number;
  /** Requests of one address at once, and per second. */
  readonly burstOfOne: number;
  readonly perSecondOfOne: number;
  /** Acts that were refused, of one address: no more are even looked at then. */
  readonly refusals: number;
  readonly refusalsPerSecond: number;
  readonly burst: number;
  readonly perSecond: number;
}

const LIMITS: RequestLimits = {
  ...LINGER,
  bodyBytes: 32 << 10,
  acts: 32,
  waiting: 2000,
  downloads: 64,
  burstOfOne: 600,
  perSecondOfOne: 100,
  refusals: 20,
  refusalsPerSecond: 0.2,
  burst: 3000,
  perSecond: 1000,
};

interface Counts {
  joined: number;
  renewed: number;
  left: number;
  refused: number;
  limited: number;
  downloads: number;
}

/** What the HTTPS server answers. Nothing of a request is in the log; a refusal says no more than the machine may know. */
export class EnrolmentRoutes {
  readonly counts: Counts = { joined: 0, renewed: 0, left: 0, refused: 0, limited: 0, downloads: 0 };
  readonly #options: EnrolmentRoutesOptions;
  readonly #limits: RequestLimits;
  readonly #ofOne: AddressBuckets;
  readonly #refusals: AddressBuckets;
  readonly #ofAll: TokenBucket;
  readonly #waiting: (() => void)[] = [];
  #acting = 0;
  #downloading = 0;

  constructor(options: EnrolmentRoutesOptions) {
    this.#options = options;
    const limits = { ...LIMITS, ...options.limits };
    this.#limits = limits;
    this.#ofOne = new AddressBuckets({ burst: limits.burstOfOne, perSecond: limits.perSecondOfOne });
    this.#refusals = new AddressBuckets({ burst: limits.refusals, perSecond: limits.refusalsPerSecond });
    this.#ofAll = new TokenBucket({ burst: limits.burst, perSecond: limits.perSecond });
  }

  readonly answer = (request: IncomingMessage, response: ServerResponse): void => {
    response.on('error', () => {});
    this.#answer(request, response).catch((error: unknown) => {
      this.#fail(request, response, error);
    });
  };

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = '', url = '', socket } = request;
    const from = plainAddress(socket.remoteAddress ?? '');
    if (!this.#ofOne.take(from) || !this.#ofAll.take()) throw this.#tooMany();
    const path = url.split('?', 1)[0] ?? '';
    if (path.startsWith(ENROLMENT_PATHS.packages) && isRead(method))
      return this.#package(request, response, path.slice(ENROLMENT_PATHS.packages.length));
    const { context } = this.#options;
    const peer = (): Peer => ({ certificate: shownCertificate(socket), from });
    switch (`${isRead(method) ? 'GET' : method} ${path}`) {
      case `POST ${ENROLMENT_PATHS.join}`: {
        const body = await this.#body(request, ['token', 'request']);
        send(response, 200, await this.#act(from, () => joinMachine(context, body, from)));
        this.counts.joined++;
        return;
      }
      case `POST ${ENROLMENT_PATHS.renew}`: {
        const body = await this.#body(request, ['request']);
        send(response, 200, await this.#act(from, () => renewMachine(context, body.request, peer())));
        this.counts.renewed++;
        return;
      }
      case `POST ${ENROLMENT_PATHS.leave}`:
        await this.#body(request, []);
        await this.#act(from, () => leaveMachine(context, peer()));
        send(response, 200, {});
        this.counts.left++;
        return;
      case `GET ${ENROLMENT_PATHS.ca}`:
        return sendText(response, { type: 'application/x-pem-file', text: context.ca.certificate });
      case `GET ${ENROLMENT_PATHS.install}`:
        return sendText(response, { type: 'text/x-shellscript', text: this.#options.installScript() });
      case `GET ${ENROLMENT_PATHS.health}`:
        response.setHeader(VERSION_HEADER, build.version);
        return this.#options.ready()
          ? sendText(response, { type: 'text/plain', text: 'ok\n' })
          : sendText(response, { type: 'text/plain', text: 'the store is away\n', status: 503 });
      default:
        throw new NotFound('there is no such path');
    }
  }

  async #package(request: IncomingMessage, response: ServerResponse, name: string): Promise<void> {
    const { packages } = this.#options;
    if (name === CHECKSUMS) return sendText(response, { type: 'text/plain', text: await packages.checksums() });
    if (this.#downloading >= this.#limits.downloads) throw this.#tooMany();
    this.#downloading++;
    try {
      const found = await packages.open(name);
      if (found === undefined) throw new NotFound('there is no such file');
      this.counts.downloads++;
      await sendFile({ request, response, found });
    } finally {
      this.#downloading--;
    }
  }

  /** So many at once, others wait in order; whoever was refused too often does not get this far. */
  async #act<T>(from: string, act: () => Promise<T>): Promise<T> {
    if (this.#refusals.empty(from)) throw this.#tooMany();
    if (this.#acting >= this.#limits.acts) {
      if (this.#waiting.length >= this.#limits.waiting) throw this.#tooMany();
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    } else this.#acting++;
    try {
      return await act();
    } catch (error) {
      if (error instanceof Refusal) this.#refusals.take(from);
      throw error;
    } finally {
      // The place goes to the next one; without one it is free.
      const next = this.#waiting.shift();
      if (next === undefined) this.#acting--;
      else next();
    }
  }

  #tooMany(): MeshError {
    this.counts.limited++;
    return new MeshError('JOIN-BUSY', '');
  }

  /** A JSON object with these texts. @throws MeshError JOIN-REQUEST */
  async #body<Name extends string>(request: IncomingMessage, names: readonly Name[]): Promise<Record<Name, string>> {
    const text = await readBody(request, this.#limits.bodyBytes);
    let found: unknown;
    try {
      found = JSON.parse(text === '' ? '{}' : text);
    } catch {
      throw new MeshError('JOIN-REQUEST', 'the body is not JSON');
    }
    const object = typeof found === 'object' && found !== null ? (found as Record<string, unknown>) : {};
    for (const name of names)
      if (typeof object[name] !== 'string') throw new MeshError('JOIN-REQUEST', `the body has no text "${name}"`);
    return object as Record<Name, string>;
  }

  #fail(request: IncomingMessage, response: ServerResponse, error: unknown): void {
    if (error instanceof Refusal) this.counts.refused++;
    if (response.headersSent || response.destroyed) {
      // Half a file must not look like a whole one.
      response.destroy();
      return;
    }
    const { code, message, status } = refusalOf(error);
    if (status >= 500 && status !== 503)
      this.#options.context.log.error('a request could not be answered', { error, path: request.url?.slice(0, 100) });
    if (status === 429 || status === 503) response.setHeader('retry-after', '5');
    const answer = jsonAnswer(status, { code, message });
    if (request.complete) {
      sendText(response, answer);
      return;
    }
    // The answer, and an end: what is still on its way is not looked at.
    response.setHeader('connection', 'close');
    sendHead(response, answer);
    endLingering(request, response, { text: answer.text, ...this.#limits });
  }
}

const STATUS_OF: Readonly<Partial<Record<ErrorCode, number>>> = {
  'JOIN-TOKEN': 400,
  'JOIN-REQUEST': 400,
  'PKI-REQUEST': 400,
  'JOIN-TOKEN-UNKNOWN': 403,
  'JOIN-TOKEN-EXPIRED': 403,
  'JOIN-TOKEN-USED': 403,
  'JOIN-WRONG-NAME': 403,
  'JOIN-NO-WORKLOAD': 403,
  'JOIN-REVOKED': 403,
  'JOIN-EXPIRED': 403,
  'JOIN-BUSY': 429,
};

function refusalOf(error: unknown): EnrolmentRefusal & { readonly status: number } {
  if (error instanceof BodyTooLong) return { code: 'JOIN-REQUEST', message: error.message, status: 413 };
  if (error instanceof NotFound) return { code: 'JOIN-REQUEST', message: error.message, status: 404 };
  if (!(error instanceof MeshError)) return { code: 'JOIN-REQUEST', message: 'internal fault of the hub', status: 500 };
  const status = STATUS_OF[error.code];
  if (status !== undefined) return { code: error.code, message: error.message, status };
  // A store that is away, a folder that cannot be read: what exactly is for the administrator.
  return { code: 'JOIN-BUSY', message: `${ERROR_CODES['JOIN-BUSY'].summary}: its store is away`, status: 503 };
}

class BodyTooLong extends Error {}

class NotFound extends Error {}

async function readBody(request: IncomingMessage, max: number): Promise<string> {
  const tooLong = new BodyTooLong(`the body has more than ${max} bytes`);
  if (Number(request.headers['content-length'] ?? 0) > max) throw tooLong;
  const chunks: Buffer[] = [];
  let length = 0;
  try {
    // Not destroyed when it is too long: that would take the connection, and the answer with it.
    for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      length += chunk.length;
      if (length > max) throw tooLong;
      chunks.push(chunk);
    }
  } catch (error) {
    if (error === tooLong) throw error;
    throw new MeshError('JOIN-REQUEST', `the body ended early: ${messageOf(error)}`);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function isRead(method: string): boolean {
  return method === 'GET' || method === 'HEAD';
}

function plainAddress(address: string): string {
  return address.startsWith('::ffff:') && address.includes('.') ? address.slice('::ffff:'.length) : address;
}

function send(response: ServerResponse, status: number, record: object): void {
  sendText(response, jsonAnswer(status, record));
}

function jsonAnswer(status: number, record: object): Answer {
  return { type: 'application/json', text: `${JSON.stringify(record)}\n`, status };
}

interface Answer {
  readonly type: string;
  readonly text: string;
  readonly status?: number;
}

function sendText(response: ServerResponse, answer: Answer): void {
  sendHead(response, answer);
  response.end(answer.text);
}

function sendHead(response: ServerResponse, { type, text, status = 200 }: Answer): void {
  response.writeHead(status, {
    'content-type': `${type}; charset=utf-8`,
    'content-length': Buffer.byteLength(text),
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
  });
}
