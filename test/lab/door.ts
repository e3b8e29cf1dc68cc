import { type AddressInfo, connect, type Server, type Socket } from 'node:net';
import type { Place } from './place.ts';

export interface Endpoint {
  readonly host: string;
  readonly port: number;
}

/**
 * A TCP port inside of a place that leads to a server on this process's loopback, and that can be broken: a store that
 * runs here is reached over the lab's network, and the network to it can fail without touching the store.
 */
export class Door {
  readonly #place: Place;
  readonly #inside: Endpoint;
  readonly #target: Endpoint;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  #server: Server | undefined;
  #hung = false;

  private constructor(place: Place, inside: Endpoint, target: Endpoint) {
    this.#place = place;
    this.#inside = inside;
    this.#target = target;
  }

  static async open(place: Place, inside: Endpoint, target: Endpoint): Promise<Door> {
    const door = new Door(place, inside, target);
    await door.open();
    return door;
  }

  get connections(): number {
    return this.#pairs.size;
  }

  /** Listens, again after `shut`. */
  async open(): Promise<void> {
    this.#hung = false;
    if (this.#server !== undefined) return;
    const server = await this.#place.door(this.#inside.host, this.#inside.port);
    server.on('connection', (socket) => this.#pass(socket));
    this.#server = server;
  }

  /** Nobody listens any more, and what was connected is reset. */
  async shut(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    const closed = server && new Promise((resolve) => server.close(resolve));
    this.cut();
    await closed;
  }

  /** Resets all connections; new ones are welcome. */
  cut(): void {
    for (const [outer, inner] of this.#pairs) {
      outer.resetAndDestroy();
      inner.destroy();
    }
  }

  /** Connections are taken and stay open, but not a byte passes, until `resume`. */
  hang(): void {
    this.#hung = true;
    for (const pair of this.#pairs) for (const socket of pair) socket.pause();
  }

  resume(): void {
    this.#hung = false;
    for (const pair of this.#pairs) for (const socket of pair) socket.resume();
  }

  async close(): Promise<void> {
    await this.shut();
  }

  #pass(outer: Socket): void {
    const inner = connect({ ...this.#target, noDelay: true });
    outer.setNoDelay(true);
    const pair = [outer, inner] as const;
    this.#pairs.add(pair);
    const end = (): void => {
      this.#pairs.delete(pair);
      outer.destroy();
      inner.destroy();
    };
    for (const [from, to] of [pair, [inner, outer] as const]) {
      from.on('data', (data: Buffer) => {
        if (to.write(data)) return;
        from.pause();
        to.once('drain', () => this.#hung || from.resume());
      });
      from.on('error', end).on('close', end);
    }
    if (this.#hung) for (const socket of pair) socket.pause();
  }
}

export function portOf(server: Server): number {
  return (server.address() as AddressInfo).port;
}
