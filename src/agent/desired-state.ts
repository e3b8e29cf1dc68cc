import type { Config } from '../config/config.ts';
import { type Address, formatAddress, type Prefix } from '../core/ip.ts';
import type { Border, DesiredOverlay, DesiredState } from '../datapath/desired.ts';
import { type Node, nodeIp } from '../kvstore/codec/node.ts';
import { type Registered, routerAddress } from '../mesh/registration.ts';
import type { Tables } from '../mesh/tables.ts';
import type { ResolvedPolicy } from '../policy/result.ts';
import { type Machine, OVERLAY_DEVICE } from './machine.ts';
import { OverlayRoutes } from './overlay-routes.ts';
import type { StoreAddress } from './store-addresses.ts';

export interface DesiredInputs {
  /** What is in force: another one after a reload. */
  readonly config: () => Config;
  readonly tables: Tables;
  readonly machine: Machine;
  readonly resolved: () => ResolvedPolicy;
  readonly registered: () => Registered | undefined;
  readonly stores: () => readonly StoreAddress[];
  /** Policies name DNS names. */
  readonly watchNames: () => boolean;
  /** Somebody wants to know of new connections. */
  readonly watchAllowed: () => boolean;
  readonly services: () => DesiredState['services'];
}

/**
 * What the kernel ought to hold, from present facts: the big tables are looked into where they are, the small parts
 * (border, overlay) are worked out again by `refresh` when one of their inputs changed.
 */
export class DesiredFromFacts implements DesiredState {
  readonly routes: OverlayRoutes;
  readonly addresses;
  readonly #inputs: DesiredInputs;
  #border: Border | undefined;
  #overlay: DesiredOverlay | undefined;
  #told = { border: '', overlay: '' };

  constructor(inputs: DesiredInputs) {
    this.#inputs = inputs;
    const { ipcache } = inputs.tables;
    this.routes = new OverlayRoutes(inputs.tables);
    this.addresses = { hosts4: ipcache.hosts4.table, hosts6: ipcache.hosts6.table, prefixes: () => ipcache.prefixes() };
  }

  get ingress() {
    return this.#inputs.resolved().ingress;
  }

  get egress() {
    return this.#inputs.resolved().egress;
  }

  get services(): DesiredState['services'] {
    return this.#inputs.services();
  }

  get border(): Border {
    this.#border ??= this.#makeBorder();
    return this.#border;
  }

  get overlay(): DesiredOverlay | undefined {
    return this.#overlay;
  }

  /** Works border and overlay out anew. @returns which of them changed */
  refresh(): { readonly border: boolean; readonly overlay: boolean } {
    const { machine, stores } = this.#inputs;
    const registered = this.#inputs.registered();
    const routesChanged = this.routes.refresh({
      own: machine.addresses,
      others: [...machine.gateways, ...stores().map(({ address }) => address)],
      ownRanges: [...(registered?.ranges4 ?? []), ...(registered?.ranges6 ?? [])],
      families: machine.families,
      joined: registered?.cluster.name,
      isSelf: (node) => this.isSelf(node),
    });
    this.#border = this.#makeBorder();
    this.#overlay = this.#makeOverlay();
    const told = { border: JSON.stringify(this.#border), overlay: JSON.stringify(this.#overlay) ?? '' };
    const changed = {
      border: told.border !== this.#told.border,
      overlay: told.overlay !== this.#told.overlay || routesChanged,
    };
    this.#told = told;
    return changed;
  }

  /** Whether a published node is this machine. */
  isSelf(node: Node): boolean {
    const cluster = this.#inputs.registered()?.cluster.name ?? this.#inputs.config().cluster?.name;
    return node.name === this.#inputs.config().name && node.cluster === cluster;
  }

  #makeBorder(): Border {
    const { machine, stores } = this.#inputs;
    const config = this.#inputs.config();
    return {
      devices: machine.external,
      dualStack: machine.dualStack,
      failsafe: config.failsafe,
      stores: stores(),
      nodes: config.routing === 'tunnel' ? this.#peers() : [],
      tunnelPort: config.tunnel.port,
      watchNames: this.#inputs.watchNames(),
      tellRate: config.monitor.rate,
      watchAllowed: this.#inputs.watchAllowed(),
      audit: config.audit,
    };
  }

  /** Tunnel endpoints of all other nodes, sorted. */
  #peers(): Address[] {
    const found = new Map<string, Address>();
    for (const node of this.#inputs.tables.nodes.values()) {
      if (this.isSelf(node)) continue;
      for (const address of [nodeIp(node, 4), nodeIp(node, 6)])
        if (address !== undefined) found.set(formatAddress(address), address);
    }
    return [...found].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, address]) => address);
  }

  #makeOverlay(): DesiredOverlay | undefined {
    const { machine } = this.#inputs;
    const config = this.#inputs.config();
    const registered = this.#inputs.registered();
    // Without the rules nothing can arrive over the overlay.
    if (config.routing !== 'tunnel' || config.datapath === 'none' || registered === undefined) return undefined;
    const { routes } = this;
    return {
      device: OVERLAY_DEVICE,
      port: config.tunnel.port,
      identity: registered.identity,
      source4: machine.ipv4,
      source6: machine.ipv6,
      underlayMtu: machine.underlayMtu,
      ownAddresses: ownAddresses(registered),
      hostRoute: (family, key) => routes.hostRoute(family, key),
      hostRoutes: () => routes.hostRoutes(),
      prefixRoutes: () => routes.prefixRoutes(),
    };
  }
}

function ownAddresses(registered: Registered): Prefix[] {
  return [registered.ranges4[0], registered.ranges6[0]]
    .filter((range) => range !== undefined)
    .map((range) => ({ ...routerAddress(range), bits: range.family === 4 ? 32 : 128 }));
}
