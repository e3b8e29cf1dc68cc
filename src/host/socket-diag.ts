import type { Address } from '../core/ip.ts';
import { NetlinkSocket } from './netlink.ts';
import { NetlinkError } from './netlink-error.ts';

/** linux/sock_diag.h, linux/inet_diag.h. */
const NETLINK_SOCK_DIAG = 4;
const SOCK_DIAG_BY_FAMILY = 20;
const SOCK_DESTROY = 21;
const AF_INET = 2;
const AF_INET6 = 10;
const UDP = 17;
/** What a datagram socket that has a peer is in. */
const ESTABLISHED = 1;
const ID_BYTES = 48;
const ID_AT = { request: 8, answer: 4 } as const;

/** A datagram socket of this network namespace that has a peer. */
export interface ConnectedSocket {
  readonly family: 4 | 6;
  readonly peer: Address;
  readonly port: number;
  readonly cookie: bigint;
  /** `struct inet_diag_sockid`: names it to the kernel. */
  readonly id: Buffer;
}

/** Lists connected datagram sockets, and ends them: who uses one gets ECONNABORTED and asks anew. Throws NetlinkError. */
export class SocketDiagnosis {
  readonly #socket = new NetlinkSocket({ family: NETLINK_SOCK_DIAG });

  async connected(visit: (socket: ConnectedSocket) => void): Promise<void> {
    for (const family of [AF_INET, AF_INET6]) {
      const body = request(family, Buffer.alloc(ID_BYTES));
      await this.#socket.dump(
        { type: SOCK_DIAG_BY_FAMILY, body, operation: 'list datagram sockets' },
        ({ body: answer }) => {
          if (answer.length < ID_AT.answer + ID_BYTES) return;
          visit(socketOf(family, Buffer.from(answer.subarray(ID_AT.answer, ID_AT.answer + ID_BYTES))));
        },
      );
    }
  }

  /** @returns false when it was gone already */
  async end({ family, id }: ConnectedSocket): Promise<boolean> {
    try {
      const body = request(family === 4 ? AF_INET : AF_INET6, id);
      await this.#socket.request({ type: SOCK_DESTROY, body, operation: 'end a datagram socket' });
      return true;
    } catch (error) {
      if (error instanceof NetlinkError && error.errnoName === 'ENOENT') return false;
      throw error;
    }
  }

  close(): void {
    this.#socket.close();
  }
}

/** `struct inet_diag_req_v2`. */
function request(family: number, id: Buffer): Buffer {
  const body = Buffer.alloc(ID_AT.request + ID_BYTES);
  body[0] = family;
  body[1] = UDP;
  body.writeUInt32LE(1 << ESTABLISHED, 4);
  id.copy(body, ID_AT.request);
  return body;
}

function socketOf(family: number, id: Buffer): ConnectedSocket {
  const word = (index: number): number => id.readUInt32BE(20 + index * 4);
  const isMapped = family === AF_INET6 && word(0) === 0 && word(1) === 0 && word(2) === 0xffff;
  const peer: Address =
    family === AF_INET
      ? { family: 4, words: [word(0)] }
      : isMapped
        ? { family: 4, words: [word(3)] }
        : { family: 6, words: [word(0), word(1), word(2), word(3)] };
  return {
    family: family === AF_INET ? 4 : 6,
    peer,
    port: id.readUInt16BE(2),
    cookie: (BigInt(id.readUInt32LE(44)) << 32n) | BigInt(id.readUInt32LE(40)),
    id,
  };
}
