import { type Address, type Family, formatAddress } from '../core/ip.ts';
import type { Link, LinkAddress, LinkState } from '../host/links.ts';

/** The machine's own address in one family, with where it comes from; or why there is none. */
export interface OwnAddress {
  readonly address: Address | undefined;
  /** The device that carries it; undefined when none does. */
  readonly device: string | undefined;
  readonly reason: string;
}

export interface OwnAddressOptions {
  readonly family: Family;
  /** Of the configuration; used even while no device carries it. */
  readonly configured?: Address | undefined;
  readonly overlayDevice: string;
}

/**
 * Configured, else by the most preferred default route: its own source address, else the best address of its device,
 * else (an unnumbered device) the best of the loopback; without a default route that of the only device that has one.
 * Best is: usable, not deprecated, not temporary, global before unique local.
 */
export function ownAddress(state: LinkState, options: OwnAddressOptions): OwnAddress {
  const { family, configured } = options;
  const usable = state.addresses.filter((each) => each.address.family === family && isUsable(each));
  if (configured !== undefined) return configuredAddress(state, usable, configured);
  const links = new Map(
    state.links.filter(({ name }) => name !== options.overlayDevice).map((link) => [link.index, link]),
  );
  const on = (link: Link): LinkAddress | undefined => best(usable.filter((each) => each.link === link.index));
  const routes = state.defaultRoutes
    .filter((route) => route.family === family && links.get(route.link)?.up === true)
    .sort((a, b) => a.metric - b.metric);
  for (const route of routes) {
    const link = links.get(route.link) as Link;
    const asked = usable.find((each) => same(each.address, route.source));
    if (asked !== undefined) return found(asked, links, `source of the default route on ${link.name}`);
    const address = on(link) ?? onLoopback(state, on);
    if (address !== undefined) return found(address, links, `of the default route on ${link.name}`);
  }
  if (routes.length > 0) {
    return none(`the device of the default route has no usable IPv${family} address`);
  }
  return withoutRoute([...links.values()], on, family);
}

function withoutRoute(links: readonly Link[], on: (link: Link) => LinkAddress | undefined, family: Family): OwnAddress {
  const candidates = links.filter((link) => link.up && !link.loopback && on(link) !== undefined);
  const only = candidates[0];
  if (only === undefined) return none(`no default route and no IPv${family} address`);
  if (candidates.length > 1) {
    const names = candidates.map(({ name }) => name).join(', ');
    return none(`no default route of IPv${family}, and several devices have an address: ${names}`);
  }
  const address = on(only);
  return { address: address?.address, device: only.name, reason: `the only device with an IPv${family} address` };
}

function configuredAddress(state: LinkState, usable: readonly LinkAddress[], address: Address): OwnAddress {
  const holder = usable.find((each) => same(each.address, address));
  const device = state.links.find(({ index }) => index === holder?.link)?.name;
  return { address, device, reason: device === undefined ? 'configured, but on no device' : 'configured' };
}

function onLoopback(state: LinkState, on: (link: Link) => LinkAddress | undefined): LinkAddress | undefined {
  const loopback = state.links.find((link) => link.loopback);
  return loopback === undefined ? undefined : on(loopback);
}

function found(address: LinkAddress, links: ReadonlyMap<number, Link>, reason: string): OwnAddress {
  return { address: address.address, device: links.get(address.link)?.name, reason };
}

function none(reason: string): OwnAddress {
  return { address: undefined, device: undefined, reason };
}

function isUsable(address: LinkAddress): boolean {
  const first = (address.address.words[0] as number) >>> 24;
  if (address.address.family === 4 && (first === 127 || first === 0)) return false;
  return address.scope === 0 && !address.tentative;
}

/** Between equals the kernel's order decides: the first that was added. */
function best(addresses: readonly LinkAddress[]): LinkAddress | undefined {
  let result: LinkAddress | undefined;
  for (const address of addresses) if (result === undefined || rank(address) < rank(result)) result = address;
  return result;
}

function rank(address: LinkAddress): number {
  return (
    (address.deprecated ? 8 : 0) +
    (address.temporary ? 4 : 0) +
    (isUniqueLocal(address.address) ? 2 : 0) +
    (address.secondary ? 1 : 0)
  );
}

function isUniqueLocal(address: Address): boolean {
  return address.family === 6 && (address.words[0] as number) >>> 25 === 0xfc >>> 1;
}

function same(a: Address, b: Address | undefined): boolean {
  return b !== undefined && formatAddress(a) === formatAddress(b);
}
