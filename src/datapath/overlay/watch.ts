import { type Link, type LinkAddress, parseAddress, parseLink } from '../../host/links.ts';
import { NETLINK_ROUTE, type NetlinkMessage, NetlinkSocket } from '../../host/netlink.ts';
import { RTM, RTNLGRP } from '../../host/rtnetlink.ts';
import { type RouteFacts, routeFacts } from './routes.ts';

const RECEIVE_BUFFER = 32 << 20;

export interface OverlayEvents {
  /** A route of the main table that somebody else added, replaced or removed. */
  onRoute(change: 'added' | 'removed', route: RouteFacts): void;
  onLink(link: Link): void;
  onAddress(change: 'added' | 'removed', address: LinkAddress): void;
  onLost(): void;
}

/**
 * Follows what happens to devices, addresses and routes. `ownPortId` is the socket that our own changes come from: they
 * come back as events too, only to be counted.
 */
export class OverlayWatch {
  readonly #socket: NetlinkSocket;
  readonly #ownPortId: number;
  readonly #events: OverlayEvents;
  #echoes = 0;

  /** Throws NetlinkError. */
  constructor(ownPortId: number, events: OverlayEvents) {
    this.#ownPortId = ownPortId;
    this.#events = events;
    this.#socket = new NetlinkSocket({
      family: NETLINK_ROUTE,
      receiveBuffer: RECEIVE_BUFFER,
      onEvent: (message) => this.#dispatch(message),
      onLost: () => events.onLost(),
    });
    for (const group of Object.values(RTNLGRP)) this.#socket.join(group);
  }

  /** Route events of our own changes so far. */
  get echoes(): number {
    return this.#echoes;
  }

  #dispatch(message: NetlinkMessage): void {
    const { type, body } = message;
    const events = this.#events;
    if (type === RTM.newRoute || type === RTM.delRoute) {
      // First of all, since a load of ours makes a hundred thousand of them.
      if (message.portId === this.#ownPortId) {
        this.#echoes++;
        return;
      }
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

  close(): void {
    this.#socket.close();
  }
}
