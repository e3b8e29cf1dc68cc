import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { isIP, type Socket } from 'node:net';
import { connect, createSecureContext, type SecureContext, type TLSSocket } from 'node:tls';
import * as grpc from '@grpc/grpc-js';
import { MeshError, messageOf } from '../core/errors.ts';
import type { EtcdOptions } from './etcd-config.ts';

/** What a TLS connection is made of. Without a CA the roots that Node brings are trusted. */
export interface TlsMaterial {
  readonly ca: Buffer | undefined;
  readonly cert: Buffer | undefined;
  readonly key: Buffer | undefined;
  /** Made of the above: TLS 1.2 or newer. */
  readonly context: SecureContext;
  readonly certPath: string | undefined;
}

/** Reads the files and checks that they fit together. @throws MeshError KVS-FILE */
export async function readTls(options: EtcdOptions): Promise<TlsMaterial> {
  const [ca, cert, key] = await Promise.all([read(options.ca), read(options.cert), read(options.key)]);
  const place = [options.ca, options.cert, options.key].filter((path) => path !== undefined).join(', ');
  if ((cert === undefined) !== (key === undefined))
    throw new MeshError('KVS-FILE', 'a certificate and its key must be given together', { place });
  if (ca !== undefined && !/-----BEGIN CERTIFICATE-----/.test(ca.toString('latin1')))
    throw new MeshError('KVS-FILE', 'the file has no PEM certificate', { place: options.ca ?? '' });
  try {
    // Nothing from the environment: neither NODE_OPTIONS nor GRPC_* may lower what is asked of the store.
    const context = createSecureContext({ ca, cert, key, minVersion: 'TLSv1.2' });
    return { ca, cert, key, context, certPath: options.cert };
  } catch (cause) {
    throw new MeshError('KVS-FILE', messageOf(cause), { place, cause });
  }
}

/** A TLS client for `host`, over a socket that is connected or to a port. */
export function secureSocket(tls: TlsMaterial, host: string, to: { socket: Socket } | { port: number }): TLSSocket {
  // No server name for an address: RFC 6066 forbids it. The certificate is checked against `host` all the same.
  const servername = isIP(host) === 0 ? { servername: host } : {};
  // Said aloud, since NODE_TLS_REJECT_UNAUTHORIZED=0 in the environment would turn verification off.
  const verified = { secureContext: tls.context, rejectUnauthorized: true };
  return connect({ ...to, host, ...servername, ...verified, ALPNProtocols: ['h2'] });
}

/** gRPC's own credentials send an address as server name, with a warning of Node, and obey `GRPC_*` in the environment. */
export class TlsCredentials extends grpc.ChannelCredentials {
  readonly #tls: TlsMaterial;
  readonly #host: string;

  constructor(tls: TlsMaterial, host: string) {
    super();
    this.#tls = tls;
    this.#host = host;
  }

  override _isSecure(): boolean {
    return true;
  }

  override _equals(other: grpc.ChannelCredentials): boolean {
    return this === other;
  }

  override _createSecureConnector(
    _target: unknown,
    _options: unknown,
    callCredentials = grpc.CallCredentials.createEmpty(),
  ): grpc.experimental.SecureConnector {
    // Nobody else ends a handshake that the other side does not answer: its socket would stay for ever.
    const shaking = new Set<TLSSocket>();
    return {
      connect: (socket) =>
        new Promise((resolve, reject) => {
          const secured = secureSocket(this.#tls, this.#host, { socket });
          shaking.add(secured);
          secured.once('secureConnect', () => {
            shaking.delete(secured);
            resolve({ socket: secured, secure: true });
          });
          secured.on('error', reject);
          secured.once('close', () => {
            shaking.delete(secured);
            reject(new Error('the connection was closed in the handshake'));
          });
        }),
      waitForReady: () => Promise.resolve(),
      getCallCredentials: () => callCredentials,
      destroy() {
        for (const secured of shaking) secured.destroy();
      },
    };
  }
}

/** Why our own certificate cannot be good now, if it cannot. */
export function ownCertificateProblem(tls: TlsMaterial, now = Date.now()): string | undefined {
  if (tls.cert === undefined) return undefined;
  const { validFrom, validTo } = new X509Certificate(tls.cert);
  const where = `our certificate ${tls.certPath ?? ''}`;
  if (now > Date.parse(validTo)) return `${where} expired on ${validTo}`;
  if (now < Date.parse(validFrom)) return `${where} is not valid before ${validFrom}`;
  return undefined;
}

async function read(path: string | undefined): Promise<Buffer | undefined> {
  if (path === undefined) return undefined;
  try {
    return await readFile(path);
  } catch (cause) {
    throw new MeshError('KVS-FILE', messageOf(cause), { place: path, cause });
  }
}
