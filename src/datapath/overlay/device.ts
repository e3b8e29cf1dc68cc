import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MeshError, messageOf } from '../../core/errors.ts';
import { Attributes, AttributeWriter, NESTED } from '../../host/attributes.ts';
import { type Link, parseLink, readLinks } from '../../host/links.ts';
import { type NetlinkSocket, NLM_F_CREATE, NLM_F_EXCL } from '../../host/netlink.ts';
import { NetlinkError } from '../../host/netlink-error.ts';
import { AF_INET, AF_INET6, IFF, IFLA, INFO, LINK_HEADER, RTM, VXLAN } from '../../host/rtnetlink.ts';

/** Marks a device as ours, whatever its name. */
export const ALIAS = 'mesh-agent overlay';

export interface DeviceSettings {
  readonly name: string;
  readonly port: number;
  readonly mtu: number;
  /** The machine has an IPv6 address of its own, so IPv6 must work on the device even where it is off by default. */
  readonly ipv6: boolean;
}

/** The device as the kernel has it. */
export interface OverlayDevice {
  readonly link: Link;
  readonly noArp: boolean;
  readonly reversePathFilter: number | undefined;
  /** Undefined when the device knows no IPv6. */
  readonly ipv6: { readonly disabled: boolean; readonly acceptRa: number; readonly addressMode: number } | undefined;
}

// Places in the kernel's tables of per-device settings (linux/ip.h, linux/ipv6.h); those of IPv4 count from 1.
const RP_FILTER = 8;
const LOOSE = 2;
const ACCEPT_RA = 3;
const DISABLE_IPV6 = 26;
const INET_CONF = 1;
const INET6_CONF = 2;
const INET6_ADDRESS_MODE = 8;
const NO_ADDRESSES = 1;

/** Undefined when there is no device of that name. Throws NetlinkError. */
export async function readDevice(socket: NetlinkSocket, name: string): Promise<OverlayDevice | undefined> {
  const writer = new AttributeWriter(128);
  writer.raw(new Uint8Array(LINK_HEADER));
  writer.string(IFLA.name, name);
  let body: Buffer | undefined;
  try {
    [body] = await socket.request({ type: RTM.getLink, body: writer.bytes(), operation: `read device ${name}` });
  } catch (error) {
    if (error instanceof NetlinkError && error.errnoName === 'ENODEV') return undefined;
    throw error;
  }
  const link = body === undefined ? undefined : parseLink(body);
  if (body === undefined || link === undefined) return undefined;
  const families = new Attributes(body, LINK_HEADER).nested(IFLA.afSpec);
  const conf4 = families?.nested(AF_INET)?.data(INET_CONF);
  const inet6 = families?.nested(AF_INET6);
  const conf6 = inet6?.data(INET6_CONF);
  return {
    link,
    noArp: (body.readUInt32LE(8) & IFF.noArp) !== 0,
    reversePathFilter: conf4 === undefined ? undefined : numberAt(conf4, RP_FILTER - 1),
    ipv6:
      conf6 === undefined
        ? undefined
        : {
            disabled: numberAt(conf6, DISABLE_IPV6) !== 0,
            acceptRa: numberAt(conf6, ACCEPT_RA),
            addressMode: inet6?.u8(INET6_ADDRESS_MODE) ?? 0,
          },
  };
}

function numberAt(table: Buffer, index: number): number {
  return table.length >= index * 4 + 4 ? table.readInt32LE(index * 4) : 0;
}

/**
 * Makes the device be there and as the settings say, and changes nothing where it is so already. A device of that name
 * that is not ours is left alone. `warn` is told what could not be set but does not stop the overlay.
 * @throws MeshError OVL-DEVICE, OVL-PORT, OVL-KERNEL, or NetlinkError
 */
export async function ensureDevice(
  socket: NetlinkSocket,
  settings: DeviceSettings,
  warn: (text: string) => void,
): Promise<OverlayDevice> {
  const { name } = settings;
  let device = await readDevice(socket, name);
  if (device !== undefined && !isFitting(device.link, settings.port)) {
    if (device.link.alias !== ALIAS) throw foreign(device.link, settings);
    await removeLink(socket, device.link);
    device = undefined;
  }
  if (device === undefined) {
    await create(socket, settings);
    device = await readDevice(socket, name);
    if (device === undefined) throw new MeshError('OVL-APPLY', `${name} vanished while it was made`, { place: name });
  }
  await configure(socket, device, settings);
  await configureIpv6(settings, (await readDevice(socket, name)) ?? device, warn);
  if (!device.link.up || !device.noArp) await bringUp(socket, device.link, settings);
  return (await readDevice(socket, name)) ?? device;
}

/** Whether a device can carry the overlay: VXLAN whose network numbers come from the routes, on this port. */
export function isFitting(link: Link, port: number): boolean {
  return link.vxlan?.collectMetadata === true && link.vxlan.port === port;
}

/** Devices that bear our mark. Throws NetlinkError. */
export async function ownDevices(socket: NetlinkSocket): Promise<Link[]> {
  return (await readLinks(socket)).filter((link) => link.kind === 'vxlan' && link.alias === ALIAS);
}

/** Takes a device away, with the routes and addresses on it. Throws NetlinkError. */
export async function removeLink(socket: NetlinkSocket, link: Link): Promise<void> {
  const body = Buffer.alloc(LINK_HEADER);
  body.writeInt32LE(link.index, 4);
  try {
    // A hundred thousand routes go with it.
    await socket.request({ type: RTM.delLink, body, operation: `remove device ${link.name}`, timeoutMs: 60_000 });
  } catch (error) {
    if (!(error instanceof NetlinkError && error.errnoName === 'ENODEV')) throw error;
  }
}

async function create(socket: NetlinkSocket, settings: DeviceSettings): Promise<void> {
  const writer = new AttributeWriter(256);
  writer.raw(new Uint8Array(LINK_HEADER));
  writer.string(IFLA.name, settings.name);
  writer.u32(IFLA.mtu, settings.mtu);
  const info = writer.begin(IFLA.linkInfo | NESTED);
  writer.string(INFO.kind, 'vxlan');
  const data = writer.begin(INFO.data | NESTED);
  writer.u8(VXLAN.collectMetadata, 1);
  writer.u8(VXLAN.learning, 0);
  writer.u16be(VXLAN.port, settings.port);
  // Some senders leave the checksum out over IPv6 too.
  writer.u8(VXLAN.zeroChecksum6Rx, 1);
  writer.end(data);
  writer.end(info);
  const operation = `make device ${settings.name}`;
  try {
    await socket.request({ type: RTM.newLink, flags: NLM_F_CREATE | NLM_F_EXCL, body: writer.bytes(), operation });
  } catch (error) {
    throw await explain(socket, settings, error);
  }
}

/** Index, flags to set, flags that are meant. */
function header(link: Link, flags = 0): Buffer {
  const body = Buffer.alloc(LINK_HEADER);
  body.writeInt32LE(link.index, 4);
  body.writeUInt32LE(flags, 8);
  body.writeUInt32LE(flags, 12);
  return body;
}

async function configure(socket: NetlinkSocket, device: OverlayDevice, settings: DeviceSettings): Promise<void> {
  const { link } = device;
  const writer = new AttributeWriter(256);
  writer.raw(header(link));
  const before = writer.length;
  if (link.mtu !== settings.mtu) writer.u32(IFLA.mtu, settings.mtu);
  if (link.alias !== ALIAS) writer.data(IFLA.alias, Buffer.from(ALIAS));
  // The strictest of this device's and the machine's setting counts, so that only `loose` is sure to let replies in.
  const filter = device.reversePathFilter !== undefined && device.reversePathFilter !== LOOSE;
  // No link-local address, which would announce itself to nobody.
  const mode = device.ipv6 !== undefined && device.ipv6.addressMode !== NO_ADDRESSES;
  if (filter || mode) {
    const spec = writer.begin(IFLA.afSpec | NESTED);
    if (filter) {
      const inet = writer.begin(AF_INET | NESTED);
      const conf = writer.begin(INET_CONF | NESTED);
      writer.u32(RP_FILTER, LOOSE);
      writer.end(conf);
      writer.end(inet);
    }
    if (mode) {
      const inet6 = writer.begin(AF_INET6 | NESTED);
      writer.u8(INET6_ADDRESS_MODE, NO_ADDRESSES);
      writer.end(inet6);
    }
    writer.end(spec);
  }
  if (writer.length === before) return;
  await socket.request({ type: RTM.newLink, body: writer.bytes(), operation: `configure device ${link.name}` });
}

/** Settings that netlink cannot write. */
async function configureIpv6(
  settings: DeviceSettings,
  device: OverlayDevice,
  warn: (text: string) => void,
): Promise<void> {
  if (device.ipv6 === undefined) return;
  const wanted: [string, string, boolean][] = [
    ['disable_ipv6', '0', settings.ipv6 && device.ipv6.disabled],
    // Nobody on the overlay is a router of ours.
    ['accept_ra', '0', device.ipv6.acceptRa !== 0],
  ];
  for (const [key, value, needed] of wanted) {
    if (!needed) continue;
    const path = join('/proc/sys/net/ipv6/conf', settings.name, key);
    try {
      await writeFile(path, value);
    } catch (error) {
      const now = await readFile(path, 'utf8').catch(() => '?');
      warn(`net.ipv6.conf.${settings.name}.${key} stays ${now.trim()}: ${messageOf(error)}`);
    }
  }
}

async function bringUp(socket: NetlinkSocket, link: Link, settings: DeviceSettings): Promise<void> {
  const body = header(link, IFF.up | IFF.noArp);
  try {
    await socket.request({ type: RTM.newLink, body, operation: `bring ${link.name} up` });
  } catch (error) {
    throw await explain(socket, settings, error);
  }
}

async function explain(socket: NetlinkSocket, settings: DeviceSettings, error: unknown): Promise<unknown> {
  if (!(error instanceof NetlinkError)) return error;
  const place = settings.name;
  if (error.errnoName === 'EOPNOTSUPP' || error.errnoName === 'ENODEV' || error.errnoName === 'EAFNOSUPPORT') {
    return new MeshError('OVL-KERNEL', error.message, { cause: error, place });
  }
  if (error.errnoName === 'EEXIST' || error.errnoName === 'EADDRINUSE') {
    const links = await readLinks(socket).catch(() => []);
    const other = links.find(({ name, vxlan }) => name !== settings.name && vxlan?.port === settings.port);
    const who = other === undefined ? 'another program' : `device ${other.name}`;
    return new MeshError('OVL-PORT', `${who} has UDP port ${settings.port}`, { cause: error, place });
  }
  return error;
}

function foreign(link: Link, settings: DeviceSettings): MeshError {
  const what =
    link.vxlan === undefined
      ? `${link.name} is a ${link.kind === '' ? 'physical device' : link.kind}`
      : `${link.name} is a VXLAN device on port ${link.vxlan.port}${link.vxlan.collectMetadata ? '' : ' with a network number of its own'}`;
  const wanted = `not one in external mode on port ${settings.port}`;
  return new MeshError('OVL-DEVICE', `${what}, ${wanted}`, { place: link.name });
}
