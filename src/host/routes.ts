import type { Address, Family } from '../core/ip.ts';
import { Attributes } from './attributes.ts';
import type { NetlinkSocket } from './netlink.ts';
import { addressOfBytes, familyOf, ROUTE_HEADER, RT_TABLE_MAIN, RTA, RTM, RTN_UNICAST } from './rtnetlink.ts';

/** A default route of the main table; one record for each device that it leads through and that is up. */
export interface DefaultRoute {
  readonly family: Family;
  /** Index of the device. */
  readonly link: number;
  /** Undefined for a route straight onto the device. A route of IPv4 may have a gateway of IPv6, which is left out. */
  readonly gateway: Address | undefined;
  /** The source address that the route asks for. */
  readonly source: Address | undefined;
  /** Lower is preferred. */
  readonly metric: number;
}

const NEXT_HOP_HEADER = 8;
// RTNH_F_DEAD: the device is down.
const DEAD = 0x1;

/** The default routes of the main table, most preferred first within each family. Throws NetlinkError. */
export async function readDefaultRoutes(
  socket: NetlinkSocket,
): Promise<{ found: DefaultRoute[]; interrupted: boolean }> {
  const found: DefaultRoute[] = [];
  const body = Buffer.alloc(ROUTE_HEADER);
  const { interrupted } = await socket.dump({ type: RTM.getRoute, body, operation: 'list routes' }, (message) => {
    if (message.type === RTM.newRoute && isDefaultRoute(message.body)) found.push(...parseDefaultRoute(message.body));
  });
  found.sort((a, b) => a.family - b.family || a.metric - b.metric);
  return { found, interrupted };
}

/** Looks at the fixed header alone: a listing may have a million others. */
export function isDefaultRoute(body: Buffer): boolean {
  return (
    body.length >= ROUTE_HEADER &&
    body[1] === 0 &&
    body[2] === 0 &&
    body[4] === RT_TABLE_MAIN &&
    body[7] === RTN_UNICAST
  );
}

/** One record for each next hop; none when the message makes no sense. */
export function parseDefaultRoute(body: Buffer): DefaultRoute[] {
  const family = familyOf(body[0]);
  if (family === undefined || body.length < ROUTE_HEADER) return [];
  const attributes = new Attributes(body, ROUTE_HEADER);
  const address = (data: Buffer | undefined): Address | undefined =>
    data === undefined ? undefined : addressOfBytes(family, data);
  const metric = attributes.u32(RTA.priority) ?? 0;
  const source = address(attributes.data(RTA.preferredSource));
  const hops = nextHops(attributes.data(RTA.multipath));
  const link = attributes.u32(RTA.oif);
  if (link !== undefined && ((body[8] as number) & DEAD) === 0)
    hops.push({ link, gateway: attributes.data(RTA.gateway) });
  return hops.map((hop) => ({ family, link: hop.link, gateway: address(hop.gateway), source, metric }));
}

/** A list of struct rtnexthop, each with attributes of its own. */
function nextHops(data: Buffer | undefined): { link: number; gateway: Buffer | undefined }[] {
  const hops: { link: number; gateway: Buffer | undefined }[] = [];
  for (let at = 0; data !== undefined && at + NEXT_HOP_HEADER <= data.length; ) {
    const length = data.readUInt16LE(at);
    if (length < NEXT_HOP_HEADER || at + length > data.length) break;
    const attributes = new Attributes(data, at + NEXT_HOP_HEADER, at + length);
    const link = data.readInt32LE(at + 4);
    if (((data[at + 2] as number) & DEAD) === 0) hops.push({ link, gateway: attributes.data(RTA.gateway) });
    at += (length + 3) & ~3;
  }
  return hops;
}
