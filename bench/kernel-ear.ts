import { Attributes, forEachAttribute } from '../src/host/attributes.ts';
import { NETLINK_NETFILTER, NetlinkSocket } from '../src/host/netlink.ts';

const NFNLGRP_NFTABLES = 7;
const NEW_ELEMENT = (10 << 8) | 12;

/** Calls for each IPv4 address that comes into the kernel's table, in the network namespace of this process, from now on. */
export function hearAddresses(heard: (address: number) => void): void {
  const socket = new NetlinkSocket({
    family: NETLINK_NETFILTER,
    receiveBuffer: 64 << 20,
    onEvent: ({ type, body }) => {
      if (type !== NEW_ELEMENT || !(new Attributes(body, 4).string(2) ?? '').startsWith('host4')) return;
      forEachAttribute(body, { offset: 4, end: body.length }, (list, start, length) => {
        if (list !== 3) return;
        forEachAttribute(body, { offset: start, end: start + length }, (_, at, size) => {
          forEachAttribute(body, { offset: at, end: at + size }, (attribute, value) => {
            if (attribute === 1) heard(body.readUInt32BE(value + 4));
          });
        });
      });
    },
  });
  socket.join(NFNLGRP_NFTABLES);
  socket.keepAlive(true);
}

/** An IPv4 address as `hearAddresses` tells it. */
export function addressWord(ip: string): number {
  return ip.split('.').reduce((all, part) => all * 256 + Number(part), 0);
}
