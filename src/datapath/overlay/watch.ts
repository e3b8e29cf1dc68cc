import { type Link, type LinkAddress, parseAddress, parseLink } from '../../host/links.ts';
import { NETLINK_ROUTE, type NetlinkMessage, NetlinkSocket } from '../../host/netlink.ts';
import { RTM, RTNLGRP } from '../../host/rtnetlink.ts';
import { type RouteFacts, routeFacts } from './routes.ts';

export interface OverlayEvents {
  /** A route of the main table that somebody else added, replaced or removed. */
  onRoute(change: 'added' | 'removed', route: RouteFacts): void;
  onLink(link: Link): void;
  onAddress(change: 'added' | 'removed', address: LinkAddress): void;
  onLost(): void;
}

/** Follows what happens to devices, addresses and routes. `ownPortId` is the socket that our own changes come from. */
export function watchOverlay(ownPortId: number, events: OverlayEvents): NetlinkSocket {
  const socket = new NetlinkSocket({
    family: NETLINK_ROUTE,
    onEvent: (message) => dispatch(message, ownPortId, events),
    onLost: () => events.onLost(),
  });
  for (const group of Object.values(RTNLGRP)) socket.join(group);
  return socket;
}

function dispatch(message: NetlinkMessage, ownPortId: number, events: OverlayEvents): void {
  const { type, body } = message;
  if (type === RTM.newRoute || type === RTM.delRoute) {
    // First of all, since a load of ours makes a hundred thousand of them.
    if (message.portId === ownPortId) return;
    const facts = routeFacts(body);
    if (facts !== undefined) events.onRoute(type === RTM.newRoute ? 'added' : 'removed', facts);
  } else if (type === RTM.newLink || type === RTM.delLink) {
    const link = parseLink(body);
    if (link !== undefined) events.onLink(link);
  } else if (type === RTM.newAddress || type === RTM.delAddress) {
    const address = parseAddress(body);
    if (address !== undefined) events.onAddress(type === RTM.newAddress ? 'added' : 'removed', address);
  }
}
