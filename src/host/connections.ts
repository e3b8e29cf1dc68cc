import { type Address, formatAddress } from '../core/ip.ts';
import { Attributes } from './attributes.ts';
import { NETLINK_NETFILTER, NetlinkSocket } from './netlink.ts';

const SUBSYSTEM = 1 << 8;
const GET = 1;
const CTA = { orig: 1, reply: 2, status: 3, protoInfo: 4, timeout: 7, labels: 22 } as const;
const TUPLE = { ip: 1, proto: 2 } as const;
const PROTO = { number: 1, source: 2, destination: 3 } as const;
const AF_INET = 2;
const AF_INET6 = 10;
const TCP = 6;
/** IPS_DST_NAT of nf_conntrack_common.h. */
const TRANSLATED = 1 << 5;
/** TIME_WAIT and CLOSE of nf_conntrack_tcp.h: nothing is said over such a connection any more. */
const OVER: ReadonlySet<number> = new Set([7, 8]);
/** SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT: something may still be said. */
const OPEN: ReadonlySet<number> = new Set([2, 3, 4, 5]);

/**
 * Addresses (canonical text) that connections lead to at this moment, as connection tracking has them: the one that was
 * asked for, and the one that answers. Costs a walk over all connections of the namespace. Throws NetlinkError.
 */
export async function connectionPeers(): Promise<ReadonlySet<string>> {
  const peers = new Set<string>();
  await eachConnection(({ version, orig, reply, tcpState }) => {
    if (tcpState !== undefined && OVER.has(tcpState)) return;
    for (const each of [addressOf(orig, version, 'destination'), addressOf(reply, version, 'source')])
      if (each !== undefined) peers.add(each);
  });
  return peers;
}

/** A port of this machine. */
export interface LocalPort {
  /** IP protocol number. */
  readonly protocol: number;
  readonly port: number;
}

/**
 * How many connections from elsewhere are open to these ports on these addresses (canonical text), by `<protocol> <port>`; ports
 * without one are left out. What is open without TCP ends when connection tracking forgets it. Costs as `connectionPeers`.
 * Throws NetlinkError.
 */
export async function openConnections(
  addresses: ReadonlySet<string>,
  ports: readonly LocalPort[],
): Promise<ReadonlyMap<string, number>> {
  const wanted = new Set(ports.map(({ protocol, port }) => `${protocol} ${port}`));
  const counts = new Map<string, number>();
  await eachConnection(({ version, orig, tcpState }) => {
    const proto = orig?.nested(TUPLE.proto);
    const number = proto?.u8(PROTO.number);
    const key = `${number} ${proto?.u16be(PROTO.destination)}`;
    if (!wanted.has(key) || (number === TCP && !OPEN.has(tcpState ?? 0))) return;
    const [from, to] = [addressOf(orig, version, 'source'), addressOf(orig, version, 'destination')];
    // The machine's own checks of its ports are nobody's connections.
    if (to !== undefined && addresses.has(to) && !addresses.has(from ?? ''))
      counts.set(key, (counts.get(key) ?? 0) + 1);
  });
  return counts;
}

/** Whether any connection goes to another destination than it asked for. Costs as `connectionPeers`. Throws NetlinkError. */
export async function hasTranslatedConnections(): Promise<boolean> {
  let found = false;
  await eachConnection(({ status }) => {
    found ||= (status & TRANSLATED) !== 0;
  });
  return found;
}

/** An entry of connection tracking. Attributes are views that are valid during the call. */
export interface TrackedConnection {
  readonly version: Address['family'];
  readonly orig: Attributes | undefined;
  readonly reply: Attributes | undefined;
  /** `enum ip_conntrack_status`. */
  readonly status: number;
  /** Of nf_conntrack_tcp.h. */
  readonly tcpState: number | undefined;
  /** Seconds. */
  readonly timeout: number;
  readonly labels: Buffer | undefined;
}

/** Walks over all connections of the namespace. Throws NetlinkError. */
export async function eachConnection(visit: (connection: TrackedConnection) => void): Promise<void> {
  const socket = new NetlinkSocket({ family: NETLINK_NETFILTER });
  try {
    const request = { type: SUBSYSTEM | GET, body: Uint8Array.of(0, 0, 0, 0), operation: 'read connections' };
    await socket.dump(request, ({ body }) => {
      const family = body[0];
      if (family !== AF_INET && family !== AF_INET6) return;
      const attributes = new Attributes(body, 4);
      visit({
        version: family === AF_INET ? 4 : 6,
        orig: attributes.nested(CTA.orig),
        reply: attributes.nested(CTA.reply),
        status: attributes.u32be(CTA.status) ?? 0,
        tcpState: attributes.nested(CTA.protoInfo)?.nested(1)?.u8(1),
        timeout: attributes.u32be(CTA.timeout) ?? 0,
        labels: attributes.data(CTA.labels),
      });
    });
  } finally {
    socket.close();
  }
}

function addressOf(
  tuple: Attributes | undefined,
  version: Address['family'],
  end: 'source' | 'destination',
): string | undefined {
  const type = (version === 4 ? 1 : 3) + (end === 'source' ? 0 : 1);
  const bytes = tuple?.nested(TUPLE.ip)?.data(type);
  if (bytes === undefined) return undefined;
  const words = Array.from({ length: bytes.length / 4 }, (_, index) => bytes.readUInt32BE(index * 4));
  return formatAddress({ family: version, words });
}

/** One end of a direction of a connection; the port is 0 for protocols without. */
export function endOf(
  tuple: Attributes | undefined,
  version: Address['family'],
  end: 'source' | 'destination',
): { readonly address: string; readonly protocol: number; readonly port: number } | undefined {
  const address = addressOf(tuple, version, end);
  const proto = tuple?.nested(TUPLE.proto);
  if (address === undefined || proto === undefined) return undefined;
  const port = proto.u16be(end === 'source' ? PROTO.source : PROTO.destination) ?? 0;
  return { address, protocol: proto.u8(PROTO.number) ?? 0, port };
}
