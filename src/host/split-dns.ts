import { randomInt } from 'node:crypto';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import { MeshError } from '../core/errors.ts';
import { formatAddress } from '../core/ip.ts';
import { CommandError, type CommandResult, run } from './command.ts';
import { type Link, readAddresses, readLinks } from './links.ts';
import { NETLINK_ROUTE, NetlinkSocket } from './netlink.ts';

export interface SplitDns {
  /** `127.0.0.153:53` */
  readonly server: string;
  /** Domains that go there, with all below, and nothing else. */
  readonly zones: readonly string[];
}

/** `absent`: no systemd-resolved runs here. `elsewhere`: it serves another network namespace, which will not change. */
export type SplitDnsState = 'registered' | 'absent' | 'elsewhere';

const LINK = 'mesh_dns';
const PEER = 'mesh_dns_peer';
/**
 * resolved looks only at devices that have an address which is good for more than the host. Nobody sends to this one or from
 * it: it is a loopback address, and its scope keeps the kernel from taking it as a source.
 */
const ADDRESS = '127.0.84.72';
/**
 * The index of a device is all that resolved is told. A number that nobody else has: a resolved of another network namespace
 * then knows no such device, and does not take it for one of its own.
 */
const FIRST_INDEX = 1 << 30;
const LAST_INDEX = 0x7fffffff;
/** Settings of the machine that must not reach this server; not every release knows each. */
const OFF = ['dnsovertls', 'dnssec', 'llmnr', 'mdns', 'default-route'] as const;
const TIMEOUT_MS = 5000;
/** There as soon as a resolved has run since the boot. */
const RUNTIME = '/run/systemd/resolve';
const KNOWN_TRIES = 20;
const KNOWN_MS = 100;

/**
 * Makes systemd-resolved send questions for zones to a server on this machine, for as long as the device is there that
 * carries the setting; changes nothing where it is so already. The signal ends it early, which is an error like any other.
 * @throws MeshError AGT-RESOLVED, HST-*
 */
export async function registerZones(wanted: SplitDns, signal: AbortSignal): Promise<SplitDnsState> {
  const resolvectl: Resolvectl = (...args) => askResolved(args, signal);
  // Before anything is made for it; asking for a program that never ran would make the bus try to start it.
  if (!existsSync(RUNTIME) || (await resolvectl('domain')) === 'absent') return 'absent';
  if (!(await hasLink())) await makeLink();
  if (!(await isKnown(resolvectl))) {
    await unregisterZones();
    return 'elsewhere';
  }
  if (await isRegistered(resolvectl, wanted)) return 'registered';
  for (const setting of OFF) await resolvectl(setting, LINK, 'no').catch(() => undefined);
  // The zones first: a server without any would be asked for everything.
  const results = [
    await resolvectl('domain', LINK, ...wanted.zones.map((zone) => `~${zone}`)),
    await resolvectl('dns', LINK, wanted.server),
  ];
  // It went away meanwhile, or came back without having heard of the device yet.
  if (results.includes('absent'))
    throw new MeshError('AGT-RESOLVED', 'systemd-resolved does not know the device (yet)');
  return 'registered';
}

/** Takes that back, whoever made it: the device goes, and resolved forgets. Does nothing where there is none. Throws HST-*. */
export async function unregisterZones(): Promise<void> {
  if ((await ourLink()) === undefined) return;
  await run('ip', ['link', 'delete', 'dev', LINK], { timeoutMs: TIMEOUT_MS });
}

/** It hears of a device from the kernel, a little later than we do. */
async function isKnown(resolvectl: Resolvectl): Promise<boolean> {
  for (let tries = 1; (await resolvectl('domain', LINK)) === 'absent'; tries++) {
    if (tries === KNOWN_TRIES) return false;
    await pause(KNOWN_MS);
  }
  return true;
}

async function isRegistered(resolvectl: Resolvectl, { server, zones }: SplitDns): Promise<boolean> {
  const [domains, servers] = [await resolvectl('domain', LINK), await resolvectl('dns', LINK)];
  if (domains === 'absent' || servers === 'absent') return false;
  const wanted = zones.map((zone) => `~${zone}`).join(' ');
  // It leaves out the port that is usual.
  return [server, server.replace(/:53$/, '')].includes(wordsOf(servers)) && wordsOf(domains) === wanted;
}

/** `Link 7 (mesh_dns): ~a ~b` to `~a ~b`. */
function wordsOf({ stdout }: CommandResult): string {
  return stdout.slice(stdout.indexOf('): ') + 3).trim();
}

type Resolvectl = (...args: string[]) => Promise<CommandResult | 'absent'>;

async function askResolved(args: readonly string[], signal: AbortSignal): ReturnType<Resolvectl> {
  try {
    return await run('resolvectl', args, { timeoutMs: TIMEOUT_MS, signal });
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    if (error.failure === 'missing' || ABSENT.test(error.stderr)) return 'absent';
    throw new MeshError('AGT-RESOLVED', error.message, { cause: error });
  }
}

/** No bus, nobody on it who can be started, or one who does not know our device. */
const ABSENT =
  /not (found|known|provided|activatable)|Could not activate|Failed to connect|No such (file|link|device)|Unknown object/i;

async function hasLink(): Promise<boolean> {
  const link = await ourLink();
  if (link === undefined) return false;
  const addresses = await asked(readAddresses);
  const fits = addresses.some((each) => each.link === link.index && formatAddress(each.address) === ADDRESS);
  if (link.up && fits && link.index >= FIRST_INDEX) return true;
  await unregisterZones();
  return false;
}

/** Throws AGT-RESOLVED for a device of that name which cannot be ours. */
async function ourLink(): Promise<Link | undefined> {
  const link = (await asked(readLinks)).find(({ name }) => name === LINK);
  if (link !== undefined && link.kind !== 'veth')
    throw new MeshError('AGT-RESOLVED', `${LINK} is a ${link.kind} that is not ours`, { place: LINK });
  return link;
}

async function asked<T>(read: (socket: NetlinkSocket) => Promise<T>): Promise<T> {
  const socket = new NetlinkSocket({ family: NETLINK_ROUTE });
  try {
    return await read(socket);
  } finally {
    socket.close();
  }
}

/** A pair, of which only one end is of use: the one kind of device that is there everywhere and up without a wire. */
async function makeLink(): Promise<void> {
  const index = String(randomInt(FIRST_INDEX, LAST_INDEX));
  await ip(['link', 'add', 'name', LINK, 'index', index, 'type', 'veth', 'peer', 'name', PEER]);
  try {
    // No link-local address, which would announce itself; a kernel without IPv6 has no such setting.
    for (const name of [LINK, PEER])
      await writeFile(`/proc/sys/net/ipv6/conf/${name}/addr_gen_mode`, '1').catch(() => undefined);
    await ip(['address', 'add', `${ADDRESS}/32`, 'dev', LINK, 'scope', 'site', 'noprefixroute']);
    await ip(['link', 'set', 'dev', LINK, 'alias', 'mesh-agent names', 'up']);
    await ip(['link', 'set', 'dev', PEER, 'alias', 'mesh-agent names', 'up']);
  } catch (error) {
    await unregisterZones();
    throw error;
  }
}

async function ip(args: readonly string[]): Promise<void> {
  await run('ip', args, { timeoutMs: TIMEOUT_MS });
}
