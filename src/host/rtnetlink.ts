import type { Address, Family } from '../core/ip.ts';

/** Numbers of rtnetlink (linux/rtnetlink.h, if_link.h, if_addr.h, lwtunnel.h) that more than one file needs. */
export const RTM = {
  newLink: 16,
  delLink: 17,
  getLink: 18,
  newAddress: 20,
  delAddress: 21,
  getAddress: 22,
  newRoute: 24,
  delRoute: 25,
  getRoute: 26,
} as const;

/** Multicast groups. */
export const RTNLGRP = { link: 1, address4: 5, route4: 7, address6: 9, route6: 11 } as const;

export const AF_INET = 2;
export const AF_INET6 = 10;
export const RT_TABLE_MAIN = 254;
export const RTN_UNICAST = 1;
export const SCOPE = { universe: 0, link: 253, host: 254, nowhere: 255 } as const;

export const RTA = {
  dst: 1,
  oif: 4,
  gateway: 5,
  priority: 6,
  preferredSource: 7,
  multipath: 9,
  table: 15,
  encapType: 21,
  encap: 22,
} as const;

export const IFF = { up: 0x1, loopback: 0x8, pointToPoint: 0x10, running: 0x40, noArp: 0x80 } as const;

export const IFLA = {
  name: 3,
  mtu: 4,
  link: 5,
  master: 10,
  linkInfo: 18,
  alias: 20,
  afSpec: 26,
  extMask: 29,
  linkNamespace: 37,
} as const;
export const INFO = { kind: 1, data: 2 } as const;
export const VXLAN = { learning: 7, port: 15, zeroChecksum6Rx: 20, collectMetadata: 25 } as const;

export const IFA = { address: 1, local: 2, flags: 8 } as const;
export const IFA_F = {
  /** Of IPv4; the same bit says *temporary* of IPv6. */
  secondary: 0x1,
  noDad: 0x2,
  dadFailed: 0x8,
  deprecated: 0x20,
  tentative: 0x40,
  noPrefixRoute: 0x200,
} as const;

/** Lengths of the fixed headers: ifinfomsg, ifaddrmsg, rtmsg. */
export const LINK_HEADER = 16;
export const ADDRESS_HEADER = 8;
export const ROUTE_HEADER = 12;

export function familyOf(number: number | undefined): Family | undefined {
  return number === AF_INET ? 4 : number === AF_INET6 ? 6 : undefined;
}

/** An address from its bytes in network order; undefined when they are too few. */
export function addressOfBytes(family: Family, data: Buffer): Address | undefined {
  const count = family === 4 ? 1 : 4;
  if (data.length < count * 4) return undefined;
  return { family, words: Array.from({ length: count }, (_, i) => data.readUInt32BE(i * 4)) };
}
