import type { NumericIdentity } from '../core/identity.ts';
import type { Address, Prefix, Words } from '../core/ip.ts';
import type { WordTable } from '../core/word-table.ts';
import type { DirectionChanges, DirectionPolicy } from '../policy/result.ts';
import type { FrontendKey, ServiceMap } from '../service/result.ts';

/**
 * The seam between the model and every data path: what the kernel ought to hold. The model side owns it and keeps it
 * present; a data path only reads it, told by `DesiredChanges` where to look. Nothing here is a copy of the big tables.
 */
export interface DesiredState {
  readonly addresses: DesiredAddresses;
  readonly ingress: DirectionPolicy;
  readonly egress: DirectionPolicy;
  readonly border: Border;
  readonly overlay: DesiredOverlay | undefined;
  /** Frontends of services and where they lead. Undefined: not known, so what the kernel holds of them stays. */
  readonly services?: ServiceMap | 'off' | undefined;
}

/** Single addresses to identity (column 0, never 0), and the prefixes, which may nest: longest wins. */
export interface DesiredAddresses {
  readonly hosts4: Pick<WordTable, 'lookup' | 'forEach' | 'keyAt' | 'get' | 'size' | 'keys'>;
  readonly hosts6: Pick<WordTable, 'lookup' | 'forEach' | 'keyAt' | 'get' | 'size' | 'keys'>;
  prefixes(): Iterable<{ readonly prefix: Prefix; readonly identity: NumericIdentity }>;
}

export type TransportPort = { readonly protocol: 6 | 17 | 132; readonly port: number };

/** What is judged, and the few flows that always pass (design, section 4). */
export interface Border {
  /** Names of the external devices; the overlay device is always one and is not listed here. */
  readonly devices: readonly string[];
  /** Our own address in each family; an enabled pair makes the machine dual-stack (world is 9 and 10, else 2). */
  readonly dualStack: boolean;
  readonly failsafe: { readonly ingress: readonly TransportPort[]; readonly egress: readonly TransportPort[] };
  /** The agent's own connections to its stores: outbound TCP. */
  readonly stores: readonly { readonly address: Address; readonly port: number }[];
  /** Node addresses that the overlay's outer packets may come from and go to; empty without an overlay. */
  readonly nodes: readonly Address[];
  readonly tunnelPort: number;
  /** DNS queries that leave and their answers are told of (`name-log.ts`). */
  readonly watchNames?: boolean;
  /** Verdicts that are told of (`verdict-log.ts`), a second and for each kind; none by default. */
  readonly tellRate?: number;
  /** New connections that are allowed are told of, too. */
  readonly watchAllowed?: boolean;
  /** Denials are counted and reported, never applied. */
  readonly audit: boolean;
}

export interface DesiredOverlay {
  readonly device: string;
  readonly port: number;
  readonly identity: NumericIdentity;
  readonly source4: Address | undefined;
  readonly source6: Address | undefined;
  /** MTU of the device that carries the outer packets. */
  readonly underlayMtu: number;
  /** Addresses of our own allocation range that live on the overlay device. */
  readonly ownAddresses: readonly Prefix[];
  /** The route of one single address, or undefined for none: its tunnel endpoint, unless a wider route already leads there. */
  hostRoute(family: 4 | 6, key: Words): Address | undefined;
  hostRoutes(): Iterable<{ readonly prefix: Prefix; readonly via: Address }>;
  /** Routes for prefixes: node ranges and prefixes with a tunnel endpoint. */
  prefixRoutes(): Iterable<{ readonly prefix: Prefix; readonly via: Address }>;
}

/** Where to look. `everything` makes a data path compare all it holds with all that is desired. */
export interface DesiredChanges {
  readonly everything?: boolean;
  readonly hosts4?: Iterable<number>;
  /** Canonical text of IPv6 addresses. */
  readonly hosts6?: Iterable<string>;
  readonly prefixes?: boolean;
  readonly ingress?: DirectionChanges;
  readonly egress?: DirectionChanges;
  readonly border?: boolean;
  /** The overlay's own settings or its prefix routes; routes of single addresses follow from `hosts4` and `hosts6`. */
  readonly overlay?: boolean;
  readonly services?: Iterable<FrontendKey>;
}
