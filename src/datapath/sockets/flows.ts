import { setImmediate as nextTurn } from 'node:timers/promises';
import { NetlinkError } from '../../host/netlink-error.ts';
import { type ConnectedSocket, SocketDiagnosis } from '../../host/socket-diag.ts';
import { addressKey, byteKey, portKey } from '../fields.ts';
import type { HeldServices } from '../lb/held.ts';
import type { FrontendBytes } from '../lb/keys.ts';
import { FlowLooks, frontendName } from '../lb/looks.ts';
import type { Moved } from '../lb/writer.ts';
import type { Generation } from './generation.ts';

// `struct peer` and `struct end` of native/bpf/sockets.bpf.c.
const PEER = { socket: 0, address: 8, port: 24 } as const;
const END = { address: 0, port: 16 } as const;
const MAPPED = Buffer.from('00000000000000000000ffff', 'hex');
const UDP = 17;
const TURN = 4096;
/** A kernel without what lists sockets (udp_diag), or without what ends them (CONFIG_INET_DIAG_DESTROY). */
const NEVER: readonly string[] = ['ENOENT', 'EOPNOTSUPP'];

/** Whether flows to a frontend are to be looked at. */
type IsMeant = (family: 4 | 6, bytes: FrontendBytes) => boolean;

/**
 * Datagrams of sockets that were led to a target that is gone. A socket without a peer finds another target with its next
 * datagram; one that is connected is ended, as Cilium does it: its program makes another.
 */
export class SocketFlows {
  readonly #held: HeldServices;
  readonly #generation: () => Generation | undefined;
  readonly #looks: FlowLooks;
  readonly #onError: (message: string) => void;
  readonly #sockets = new SocketDiagnosis();
  /** What was led by an earlier process was never looked at: it may have been killed in between. */
  #inDoubt = true;
  /** Sockets cannot be ended here, and that was told. */
  #told = false;

  constructor(options: {
    readonly held: HeldServices;
    readonly generation: () => Generation | undefined;
    readonly onError: (message: string) => void;
  }) {
    this.#held = options.held;
    this.#generation = options.generation;
    this.#onError = options.onError;
    this.#looks = new FlowLooks({ look: (wanted) => this.#look(wanted), onError: options.onError });
  }

  changed(moved: readonly Moved[]): void {
    this.#looks.changed(moved);
    if (this.#inDoubt) this.#looks.soon();
  }

  async close(): Promise<void> {
    await this.#looks.close();
    this.#sockets.close();
  }

  async #look(wanted: ReadonlySet<string>): Promise<boolean> {
    const generation = this.#generation();
    if (generation === undefined) return true;
    const isMeant: IsMeant = this.#inDoubt ? () => true : (family, bytes) => wanted.has(frontendName(family, bytes));
    await this.#forgetFlows(generation, isMeant);
    const led = await this.#led(generation, isMeant);
    const stale: ConnectedSocket[] = [];
    try {
      await this.#sockets.connected((socket) => {
        if (this.#isStale(socket, led, wanted)) stale.push(socket);
      });
      for (const socket of stale) await this.#sockets.end(socket);
    } catch (error) {
      if (!(error instanceof NetlinkError && NEVER.includes(error.errnoName))) throw error;
      if (!this.#told) this.#onError(`${error.message}: those that are connected stay where they are`);
      this.#told = true;
    }
    this.#inDoubt = false;
    return true;
  }

  async #forgetFlows(generation: Generation, isMeant: IsMeant): Promise<void> {
    const map = generation.map('flows');
    const stale: Buffer[] = [];
    let count = 0;
    for (const { key, value } of map.entries()) {
      const frontend = endAt(key, PEER);
      const target = endAt(value, END);
      if (this.#leadsElsewhere(frontend, target, isMeant)) stale.push(Buffer.from(key));
      if (++count % TURN === 0) await nextTurn();
    }
    for (const key of stale) map.delete(key);
  }

  /** Sockets that were led to targets that are gone, with these, by cookie. */
  async #led(generation: Generation, isMeant: IsMeant): Promise<ReadonlyMap<bigint, ReadonlySet<string>>> {
    const led = new Map<bigint, Set<string>>();
    let count = 0;
    for (const { key, value } of generation.map('udp_peers').entries()) {
      const target = endAt(key, PEER);
      if (this.#leadsElsewhere(endAt(value, END), target, isMeant)) {
        const cookie = key.readBigUInt64LE(PEER.socket);
        led.set(cookie, (led.get(cookie) ?? new Set()).add(target.bytes));
      }
      if (++count % TURN === 0) await nextTurn();
    }
    return led;
  }

  #isStale(
    { peer, port, cookie }: ConnectedSocket,
    led: ReadonlyMap<bigint, ReadonlySet<string>>,
    wanted: ReadonlySet<string>,
  ): boolean {
    const end = endBytes(addressKey(peer.words), port);
    if (led.get(cookie)?.has(end) === true) return true;
    // It has asked for the frontend itself, before that led anywhere.
    const { family } = peer;
    const bytes = frontendOf(end);
    const slots = this.#held.frontends[family].get(bytes)?.slots;
    if (slots === undefined || slots.length === 0 || slots.includes(end)) return false;
    return wanted.has(frontendName(family, bytes));
  }

  #leadsElsewhere(frontend: End, target: End, isMeant: IsMeant): boolean {
    const { family } = frontend;
    const bytes = frontendOf(frontend.bytes);
    if (!isMeant(family, bytes)) return false;
    return this.#held.frontends[family].get(bytes)?.slots.includes(target.bytes) !== true;
  }
}

/** Address and port, as a target is written in the kernel's maps. */
interface End {
  readonly family: 4 | 6;
  readonly bytes: string;
}

function endAt(buffer: Buffer, at: { readonly address: number; readonly port: number }): End {
  const address = buffer.subarray(at.address, at.address + 16);
  const isMapped = address.subarray(0, 12).equals(MAPPED);
  const text = address.toString('latin1', isMapped ? 12 : 0);
  return { family: isMapped ? 4 : 6, bytes: endBytes(text, buffer.readUInt16BE(at.port)) };
}

const endBytes = (address: string, port: number): string => address + portKey(port);

/** The key of the frontend with this address and port. */
function frontendOf(end: string): string {
  return end.slice(0, -4) + byteKey(UDP) + end.slice(-4);
}
