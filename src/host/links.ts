import { type Address, addressBits } from '../core/ip.ts';
import { Attributes, AttributeWriter } from './attributes.ts';
import { NETLINK_ROUTE, type NetlinkMessage, NetlinkSocket } from './netlink.ts';
import { type DefaultRoute, readDefaultRoutes } from './routes.ts';
import {
  ADDRESS_HEADER,
  addressOfBytes,
  familyOf,
  IFA,
  IFA_F,
  IFF,
  IFLA,
  INFO,
  LINK_HEADER,
  RTM,
  VXLAN,
} from './rtnetlink.ts';

/** A network device of this namespace. */
export interface Link {
  readonly index: number;
  readonly name: string;
  /** `bridge`, `veth`, `vxlan`, ...; empty for a physical device and for the loopback. */
  readonly kind: string;
  /** ARPHRD_*: 1 Ethernet, 65534 none (a layer 3 tunnel), 772 loopback. */
  readonly hardware: number;
  readonly up: boolean;
  readonly loopback: boolean;
  readonly mtu: number;
  /** Index of the bridge, bond, team or VRF that it belongs to. */
  readonly master: number | undefined;
  /** Index of the device below (VLAN, macvlan); undefined when that lies in another namespace. */
  readonly parent: number | undefined;
  readonly alias: string;
  readonly vxlan: { readonly port: number; readonly collectMetadata: boolean } | undefined;
}

/** An address on a device. */
export interface LinkAddress {
  /** Index of the device. */
  readonly link: number;
  readonly address: Address;
  readonly bits: number;
  /** RT_SCOPE_*: 0 global, 253 link, 254 host. */
  readonly scope: number;
  /** Duplicate detection runs or has failed: not usable (yet). */
  readonly tentative: boolean;
  readonly deprecated: boolean;
  /** An IPv6 privacy address, which changes by itself. */
  readonly temporary: boolean;
  /** IPv4: not the first of its network on the device. */
  readonly secondary: boolean;
}

/** Devices, addresses and default routes of this network namespace at one moment. */
export interface LinkState {
  readonly links: readonly Link[];
  readonly addresses: readonly LinkAddress[];
  readonly defaultRoutes: readonly DefaultRoute[];
}

// Leaves the statistics of each device out of the listing.
const SKIP_STATS = 1 << 3;
const ATTEMPTS = 5;

/** Reads the state, again when it changed while it was read. Throws NetlinkError. */
export async function readLinkState(socket?: NetlinkSocket): Promise<LinkState> {
  const own = socket ?? new NetlinkSocket({ family: NETLINK_ROUTE });
  try {
    for (let attempt = 1; ; attempt++) {
      const [links, addresses, defaultRoutes] = await Promise.all([
        listing(own, { type: RTM.getLink, answer: RTM.newLink, body: linkRequest() }, parseLink),
        listing(
          own,
          { type: RTM.getAddress, answer: RTM.newAddress, body: Buffer.alloc(ADDRESS_HEADER) },
          parseAddress,
        ),
        readDefaultRoutes(own),
      ]);
      const interrupted = links.interrupted || addresses.interrupted || defaultRoutes.interrupted;
      // On a machine that never rests the last look has to do: the next event brings the next one.
      if (!interrupted || attempt === ATTEMPTS)
        return { links: links.found, addresses: addresses.found, defaultRoutes: defaultRoutes.found };
    }
  } finally {
    if (socket === undefined) own.close();
  }
}

/** All devices. Throws NetlinkError. */
export async function readLinks(socket: NetlinkSocket): Promise<Link[]> {
  return (await listing(socket, { type: RTM.getLink, answer: RTM.newLink, body: linkRequest() }, parseLink)).found;
}

/** All addresses. Throws NetlinkError. */
export async function readAddresses(socket: NetlinkSocket): Promise<LinkAddress[]> {
  const body = Buffer.alloc(ADDRESS_HEADER);
  return (await listing(socket, { type: RTM.getAddress, answer: RTM.newAddress, body }, parseAddress)).found;
}

async function listing<T>(
  socket: NetlinkSocket,
  request: { readonly type: number; readonly answer: number; readonly body: Buffer },
  parse: (body: Buffer) => T | undefined,
): Promise<{ found: T[]; interrupted: boolean }> {
  const found: T[] = [];
  const operation = request.type === RTM.getLink ? 'list devices' : 'list addresses';
  const { interrupted } = await socket.dump({ ...request, operation }, (message: NetlinkMessage) => {
    if (message.type !== request.answer) return;
    const record = parse(message.body);
    if (record !== undefined) found.push(record);
  });
  return { found, interrupted };
}

function linkRequest(): Buffer {
  const writer = new AttributeWriter(128);
  writer.raw(new Uint8Array(LINK_HEADER));
  writer.u32(IFLA.extMask, SKIP_STATS);
  return writer.bytes();
}

/** The body of RTM_NEWLINK or RTM_DELLINK; undefined when it makes no sense. */
export function parseLink(body: Buffer): Link | undefined {
  // Bridges send messages of their own family about their ports.
  if (body.length < LINK_HEADER || body[0] !== 0) return undefined;
  const index = body.readInt32LE(4);
  const flags = body.readUInt32LE(8);
  const attributes = new Attributes(body, LINK_HEADER);
  const name = attributes.string(IFLA.name);
  if (name === undefined || name === '' || index <= 0) return undefined;
  const info = attributes.nested(IFLA.linkInfo);
  const kind = info?.string(INFO.kind) ?? '';
  const data = kind === 'vxlan' ? info?.nested(INFO.data) : undefined;
  const parent = attributes.has(IFLA.linkNamespace) ? undefined : attributes.u32(IFLA.link);
  return {
    index,
    name,
    kind,
    hardware: body.readUInt16LE(2),
    up: (flags & IFF.up) !== 0,
    loopback: (flags & IFF.loopback) !== 0,
    mtu: attributes.u32(IFLA.mtu) ?? 0,
    master: attributes.u32(IFLA.master) || undefined,
    parent: parent === index ? undefined : parent || undefined,
    alias: attributes.string(IFLA.alias) ?? '',
    vxlan:
      data === undefined
        ? undefined
        : { port: data.u16be(VXLAN.port) ?? 0, collectMetadata: (data.u8(VXLAN.collectMetadata) ?? 0) !== 0 },
  };
}

/** The body of RTM_NEWADDR or RTM_DELADDR; undefined for other families and for nonsense. */
export function parseAddress(body: Buffer): LinkAddress | undefined {
  if (body.length < ADDRESS_HEADER) return undefined;
  const family = familyOf(body[0]);
  if (family === undefined) return undefined;
  const attributes = new Attributes(body, ADDRESS_HEADER);
  // On a point-to-point device `address` is the peer's, and `local` is ours.
  const data = attributes.data(IFA.local) ?? attributes.data(IFA.address);
  const address = data === undefined ? undefined : addressOfBytes(family, data);
  if (address === undefined) return undefined;
  const flags = attributes.u32(IFA.flags) ?? (body[2] as number);
  return {
    link: body.readUInt32LE(4),
    address,
    bits: Math.min(body[1] as number, addressBits(family)),
    scope: body[3] as number,
    tentative: family === 6 && (flags & (IFA_F.tentative | IFA_F.dadFailed)) !== 0,
    deprecated: (flags & IFA_F.deprecated) !== 0,
    temporary: family === 6 && (flags & IFA_F.secondary) !== 0,
    secondary: family === 4 && (flags & IFA_F.secondary) !== 0,
  };
}
