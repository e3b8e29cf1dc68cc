import type { KeyObject } from 'node:crypto';
import {
  type ClientHttp2Session,
  connect,
  createSecureServer,
  type Http2SecureServer,
  type ServerHttp2Session,
} from 'node:http2';
import type { TLSSocket } from 'node:tls';
import { MeshError, messageOf } from '../../core/errors.ts';
import type { Log } from '../../observe/log.ts';
import type { CertificateAuthority } from '../../pki/authority.ts';
import { generateKey, privateKeyPem } from '../../pki/keys.ts';
import { hostAndPort } from '../etcd/arguments.ts';
import type { ConnectedUsers } from './connected-users.ts';
import { forward } from './forward.ts';
import { type Heard, isGone, LOOK_MS } from './silence.ts';
import { WriteLimit } from './write-limit.ts';

export interface GuardOptions {
  /** `host:port` for machines and clusters. */
  readonly listen: string;
  /** What it shows to them: PEM. */
  readonly server: { readonly certificate: string; readonly key: string };
  /** Who signed their certificates: PEM. */
  readonly clientCa: string;
  /** Where etcd is: one member or several. */
  readonly endpoints: readonly string[];
  /** Who signed the certificate of etcd: PEM. */
  readonly etcdCa: string;
  /** The authority that etcd trusts. What it signs here stays in this process. */
  readonly internal: CertificateAuthority;
  /**
   * Of a certificate, by its serial number: its user may have joined again with another one. Nobody is let in as long
   * as it is unknown who is revoked.
   */
  readonly standing: (serial: string) => 'good' | 'revoked' | 'unknown';
  /** Is told who comes and goes. */
  readonly users: ConnectedUsers;
  readonly log: Log;
}

export interface GuardStatus {
  readonly listen: string;
  readonly connections: number;
  /** Users with a connection. */
  readonly users: number;
  readonly refused: number;
}

const HANDSHAKE_MS = 10_000;
const MAX_CONNECTIONS = 20_000;
const MAX_PER_USER = 32;
const MAX_STREAMS = 256;
const WINDOW = 1 << 20;
const SESSION_WINDOW = 4 << 20;
const UPSTREAM_SECONDS = 86_400;
const MAX_TIMER_MS = 0x7fff_ffff;

/**
 * Stands between etcd and everyone but the hub itself. It checks certificates by TLS, takes only requests that etcd can
 * be trusted with (`check-request.ts`), and speaks to etcd as the user that the certificate names, so that etcd's own
 * rights decide everything else, but for how much one may write (`write-limit.ts`). It knows whose connection is whose, and can end them: etcd asks for rights when a watch
 * begins, and never again.
 */
export class Guard {
  readonly #options: GuardOptions;
  readonly #server: Http2SecureServer;
  readonly #guests = new Map<ServerHttp2Session, Guest>();
  /** One key for all certificates towards etcd: it never leaves this process. */
  readonly #key: KeyObject = generateKey();
  readonly #writes = new WriteLimit();
  #looking: NodeJS.Timeout | undefined;
  /** Of the session that is told next. */
  #socket: TLSSocket | undefined;
  #refused = 0;
  /** The member for the next client: one that is away is not asked twice in a row. */
  #next = 0;

  constructor(options: GuardOptions) {
    this.#options = options;
    const { server, clientCa, log } = options;
    this.#server = createSecureServer({
      cert: server.certificate,
      key: server.key,
      ca: clientCa,
      requestCert: true,
      rejectUnauthorized: true,
      minVersion: 'TLSv1.2',
      handshakeTimeout: HANDSHAKE_MS,
      settings: { maxConcurrentStreams: MAX_STREAMS, initialWindowSize: WINDOW, enablePush: false },
    });
    this.#server.maxConnections = MAX_CONNECTIONS;
    // A session shows only a shade of its socket, which cannot be destroyed; it is made while this event is told.
    this.#server.prependListener('secureConnection', (socket: TLSSocket) => {
      this.#socket = socket;
    });
    this.#server.on('session', (session) => this.#admit(session, this.#socket as TLSSocket));
    this.#server.on('sessionError', (error) => log.debug('a connection failed', { reason: messageOf(error) }));
    this.#server.on('tlsClientError', (error, socket) =>
      log.debug('a client was not let in', { reason: messageOf(error), address: socket.remoteAddress }),
    );
    this.#server.on('stream', (stream, headers) => {
      const guest = this.#guests.get(stream.session as ServerHttp2Session);
      if (guest === undefined) {
        stream.close();
        return;
      }
      const onRefused = (reason: string): void => this.#onRefused(guest, { path: headers[':path'], reason });
      const admits = (path: string, bytes: number): boolean => this.#writes.admits(guest.user, path, bytes);
      forward({ stream, headers, upstream: guest.upstream, admits, onRefused });
    });
  }

  get status(): GuardStatus {
    const { listen, users } = this.#options;
    return { listen, connections: this.#guests.size, users: users.all.size, refused: this.#refused };
  }

  /** @throws MeshError HUB-LISTEN */
  async start(): Promise<void> {
    const { listen } = this.#options;
    await new Promise<void>((resolve, reject) => {
      const fail = (cause: Error): void =>
        reject(new MeshError('HUB-LISTEN', messageOf(cause), { place: listen, cause }));
      this.#server.once('error', fail);
      this.#server.listen(hostAndPort(listen), () => {
        this.#server.off('error', fail);
        this.#server.on('error', (error) => this.#options.log.warn('the door to etcd had a fault', { error }));
        this.#looking = setInterval(() => this.#look(), LOOK_MS).unref();
        resolve();
      });
    });
  }

  /** From now on it shows this certificate. */
  renew(server: GuardOptions['server']): void {
    this.#server.setSecureContext({ cert: server.certificate, key: server.key, ca: this.#options.clientCa });
  }

  /** Ends every connection of a user. @returns how many there were */
  cut(user: string): number {
    let count = 0;
    for (const [session, guest] of this.#guests) {
      if (guest.user !== user) continue;
      session.destroy();
      count++;
    }
    return count;
  }

  stop(): Promise<void> {
    clearInterval(this.#looking);
    return new Promise((resolve) => {
      this.#server.close(() => resolve());
      for (const session of this.#guests.keys()) session.destroy();
    });
  }

  #admit(session: ServerHttp2Session, socket: TLSSocket): void {
    const certificate = socket.getPeerX509Certificate();
    const name = /^CN=([^\n]+)$/.exec(certificate?.subject ?? '')?.[1];
    const standing = certificate === undefined ? 'unknown' : this.#options.standing(certificate.serialNumber);
    // A user that does not exist: etcd denies everything, in words that clients understand.
    const user = standing === 'revoked' ? `revoked:${name}` : name;
    const same = user === undefined ? 0 : this.#options.users.countOf(user);
    // A name of the hub's own is never signed for anyone: should it be shown, something is very wrong.
    const own = /^(root$|admin-|peer-)/.test(name ?? '');
    if (certificate === undefined || user === undefined || own || standing === 'unknown' || same >= MAX_PER_USER) {
      this.#refused++;
      this.#options.log.warn('a client was not let in', {
        user,
        standing,
        connections: same,
        address: socket.remoteAddress,
      });
      session.destroy();
      return;
    }
    session.setLocalWindowSize(SESSION_WINDOW);
    const upstream = this.#connect(user);
    const left = Math.min(certificate.validToDate.getTime() - Date.now(), MAX_TIMER_MS);
    const expiry = setTimeout(() => session.destroy(), Math.max(0, left)).unref();
    const heard = { bytes: 0, silentLooks: 0 };
    this.#guests.set(session, { user, upstream, socket, address: socket.remoteAddress ?? '', told: 0, heard });
    this.#options.users.arrived(user);
    session.on('error', () => {});
    session.once('close', () => {
      clearTimeout(expiry);
      this.#guests.delete(session);
      this.#options.users.left(user);
      this.#writes.left(user);
      upstream.destroy();
    });
    upstream.on('error', (error) =>
      this.#options.log.debug('a connection to etcd failed', { user, reason: messageOf(error) }),
    );
    // The client connects anew, and lists or resumes as it must.
    upstream.once('close', () => session.destroy());
  }

  #look(): void {
    for (const [session, { user, address, socket, heard }] of this.#guests) {
      if (!isGone({ session, socket, heard })) continue;
      this.#options.log.debug('a client is silent, and its connection is given up', { user, address });
      // The session would wait until what is on its way to the client has been sent.
      socket.destroy();
    }
  }

  #connect(user: string): ClientHttp2Session {
    const { endpoints, etcdCa, internal } = this.#options;
    const endpoint = endpoints[this.#next++ % endpoints.length] ?? '';
    const { pem } = internal.issueClient({ commonName: user, publicKey: this.#key, seconds: UPSTREAM_SECONDS });
    const session = connect(endpoint, {
      ca: etcdCa,
      cert: pem,
      key: privateKeyPem(this.#key),
      rejectUnauthorized: true,
      minVersion: 'TLSv1.2',
      settings: { initialWindowSize: WINDOW, enablePush: false },
    });
    session.once('connect', () => {
      // Its guest may have left in the moment before this is told.
      if (!session.destroyed) session.setLocalWindowSize(SESSION_WINDOW);
    });
    return session;
  }

  #onRefused(guest: Guest, facts: { readonly path: unknown; readonly reason: string }): void {
    this.#refused++;
    const now = performance.now();
    // An attacker must not fill the log.
    if (now - guest.told < 10_000 && guest.told > 0) return;
    guest.told = now;
    this.#options.log.warn('a request was refused', { user: guest.user, address: guest.address, ...facts });
  }
}

interface Guest {
  readonly socket: TLSSocket;
  readonly user: string;
  readonly address: string;
  readonly upstream: ClientHttp2Session;
  told: number;
  readonly heard: Heard;
}
