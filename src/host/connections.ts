import { type Address, formatAddress } from '../core/ip.ts';
import { Attributes } from './attributes.ts';
import { NETLINK_NETFILTER, NetlinkSocket } from './netlink.ts';

const SUBSYSTEM = 1 << 8;
const GET = 1;
const CTA = { orig: 1, reply: 2, protoInfo: 4 } as const;
const AF_INET = 2;
const AF_INET6 = 10;
/** TIME_WAIT and CLOSE of nf_conntrack_tcp.h: nothing is said over such a connection any more. */
const OVER: ReadonlySet<number> = new Set([7, 8]);

/**
 * Addresses (canonical text) that connections lead to at this moment, as connection tracking has them: the one that was
 * asked for, and the one that answers. Costs a walk over all connections of the namespace. Throws NetlinkError.
 */
export async function connectionPeers(): Promise<ReadonlySet<string>> {
  const peers = new Set<string>();
  const socket = new NetlinkSocket({ family: NETLINK_NETFILTER });
  try {
    const request = { type: SUBSYSTEM | GET, body: Uint8Array.of(0, 0, 0, 0), operation: 'read connections' };
    await socket.dump(request, ({ body }) => {
      const family = body[0];
      if (family !== AF_INET && family !== AF_INET6) return;
      const attributes = new Attributes(body, 4);
      const state = attributes.nested(CTA.protoInfo)?.nested(1)?.u8(1);
      if (state !== undefined && OVER.has(state)) return;
      const version = family === AF_INET ? 4 : 6;
      const to = addressOf(
        attributes
          .nested(CTA.orig)
          ?.nested(1)
          ?.data(version === 4 ? 2 : 4),
        version,
      );
      const from = addressOf(
        attributes
          .nested(CTA.reply)
          ?.nested(1)
          ?.data(version === 4 ? 1 : 3),
        version,
      );
      for (const each of [to, from]) if (each !== undefined) peers.add(each);
    });
  } finally {
    socket.close();
  }
  return peers;
}

function addressOf(bytes: Buffer | undefined, family: Address['family']): string | undefined {
  if (bytes === undefined) return undefined;
  const words = Array.from({ length: bytes.length / 4 }, (_, index) => bytes.readUInt32BE(index * 4));
  return formatAddress({ family, words });
}
