import type { Socket } from 'node:net';
import { TokenBucket } from '../../core/token-bucket.ts';
import { AddressBuckets, addressGroup } from './address-buckets.ts';

export interface ConnectionLimits {
  /** At once. One more puts out the oldest that has not asked anything yet. */
  readonly connections: number;
  readonly connectionsOfOne: number;
  /** New ones: at once, and per second in the long run; of one address, and of all. */
  readonly burstOfOne: number;
  readonly perSecondOfOne: number;
  readonly burst: number;
  readonly perSecond: number;
}

export const CONNECTION_LIMITS: ConnectionLimits = {
  connections: 1024,
  connectionsOfOne: 256,
  // A fleet may come from behind one address; a handshake costs about a millisecond.
  burstOfOne: 1000,
  perSecondOfOne: 150,
  burst: 2000,
  perSecond: 500,
};

/**
 * Decides which TCP connections get as far as a TLS handshake, which is what costs. One address cannot take them all, and
 * silent ones make room for the next.
 */
export class Connections {
  readonly #limits: ConnectionLimits;
  readonly #ofOne: AddressBuckets;
  readonly #ofAll: TokenBucket;
  /** By address and port of the other side, in order of arrival. */
  readonly #open = new Map<string, Connection>();
  readonly #counts = new Map<string, number>();
  #refused = 0;

  constructor(limits: Partial<ConnectionLimits> = {}) {
    this.#limits = { ...CONNECTION_LIMITS, ...limits };
    const { burstOfOne, perSecondOfOne, burst, perSecond } = this.#limits;
    this.#ofOne = new AddressBuckets({ burst: burstOfOne, perSecond: perSecondOfOne });
    this.#ofAll = new TokenBucket({ burst, perSecond });
  }

  get size(): number {
    return this.#open.size;
  }

  get refused(): number {
    return this.#refused;
  }

  /** Takes it in, or ends it. */
  admit(socket: Socket): void {
    const address = socket.remoteAddress ?? '';
    const group = addressGroup(address);
    const count = this.#counts.get(group) ?? 0;
    const { connections, connectionsOfOne } = this.#limits;
    // In this order: one that is refused for its address must not use up what all share.
    const fine =
      count < connectionsOfOne &&
      this.#ofOne.take(address) &&
      this.#ofAll.take() &&
      (this.#open.size < connections || this.#makeRoom());
    if (!fine) {
      this.#refused++;
      socket.destroy();
      return;
    }
    this.#counts.set(group, count + 1);
    const key = keyOf(socket);
    this.#open.set(key, { socket, asking: false });
    socket.once('close', () => {
      if (this.#open.get(key)?.socket === socket) this.#open.delete(key);
      const left = (this.#counts.get(group) ?? 1) - 1;
      if (left > 0) this.#counts.set(group, left);
      else this.#counts.delete(group);
    });
  }

  /** Whether it asks something at present: such a one is not put out. The socket may be the one of TLS above it. */
  asking(socket: Socket, asking: boolean): void {
    const connection = this.#open.get(keyOf(socket));
    if (connection !== undefined) connection.asking = asking;
  }

  closeAll(): void {
    for (const { socket } of this.#open.values()) socket.destroy();
  }

  #makeRoom(): boolean {
    for (const [key, { socket, asking }] of this.#open) {
      if (asking) continue;
      this.#open.delete(key);
      socket.destroy();
      return true;
    }
    return false;
  }
}

interface Connection {
  readonly socket: Socket;
  asking: boolean;
}

function keyOf(socket: Socket): string {
  return `${socket.remoteAddress} ${socket.remotePort}`;
}
