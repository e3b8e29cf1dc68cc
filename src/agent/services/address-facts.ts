import {
  type Address,
  addressBits,
  contains,
  formatAddress,
  type Prefix,
  parsePrefix,
  prefixOf,
} from '../../core/ip.ts';
import type { Ipcache } from '../../mesh/ipcache.ts';
import type { AddressFacts } from '../../service/facts.ts';

export interface AddressInputs {
  readonly ipcache: Ipcache;
  /** Addresses of this machine. */
  readonly own: () => readonly Address[];
  /** Networks that it is a member of. */
  readonly networks: () => readonly Prefix[];
  readonly gateways: () => readonly Address[];
  readonly stores: () => readonly { readonly address: Address }[];
  /** `services.frontends`, as it is now. */
  readonly allowed: () => readonly string[];
}

const prefixes = (...texts: readonly string[]): readonly Prefix[] =>
  texts.map(parsePrefix).filter((prefix) => prefix !== undefined);

/** No service can be there: this network, loopback, link-local, multicast, reserved. */
const UNUSABLE = prefixes(
  '0.0.0.0/8',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '224.0.0.0/3',
  '::/127',
  'fe80::/10',
  'ff00::/8',
);
/** Where clusters have their service addresses; RFC 1918, 6598, 2544, 4193. */
const PRIVATE = prefixes('10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '100.64.0.0/10', '198.18.0.0/15', 'fc00::/7');

/**
 * Who has an address, so that no service takes over what is somebody's: traffic to a frontend goes wherever the cluster that
 * announces it says. The joined cluster is believed more than others: it may announce what it likes, but addresses of the
 * machine itself, of its network and of the mesh.
 */
export class MachineAddressFacts implements AddressFacts {
  readonly #inputs: AddressInputs;
  #allowed: readonly Prefix[] = PRIVATE;
  #own = new Map<string, string>();

  constructor(inputs: AddressInputs) {
    this.#inputs = inputs;
    this.allow();
    this.refresh();
  }

  /** `services.frontends` may be another. */
  allow(): void {
    this.#allowed = [...PRIVATE, ...prefixes(...this.#inputs.allowed())];
  }

  /** The machine's addresses, gateways or stores may be others. @returns whether they are */
  refresh(): boolean {
    const { own, gateways, stores } = this.#inputs;
    const found = new Map<string, string>();
    for (const address of gateways()) found.set(formatAddress(address), 'is a gateway of this machine');
    for (const { address } of stores()) found.set(formatAddress(address), 'is the address of a store');
    for (const address of own()) found.set(formatAddress(address), 'is an address of this machine');
    const same = found.size === this.#own.size && [...found].every(([key, why]) => this.#own.get(key) === why);
    this.#own = found;
    return !same;
  }

  frontendRefusal(address: Address, { joined }: { readonly joined: boolean }): string | undefined {
    if (isIn(UNUSABLE, address)) return 'cannot be the address of a service';
    const owner = this.#own.get(formatAddress(address)) ?? this.#memberOf(address);
    if (owner !== undefined || joined) return owner;
    if (isIn(this.#inputs.networks(), address)) return 'lies in a network of this machine';
    return isIn(this.#allowed, address)
      ? undefined
      : 'is no private address, and `services.frontends` does not name it';
  }

  backendRefusal(
    address: Address,
    { cluster, joined }: { readonly cluster: string; readonly joined: boolean },
  ): string | undefined {
    if (isIn(UNUSABLE, address)) return 'cannot be the address of a backend';
    if (joined) return undefined;
    const owner = this.#inputs.ipcache.lookup(address)?.origin;
    if (owner?.cluster === cluster) return undefined;
    return owner === undefined || owner.cluster === ''
      ? `is no address of ${cluster}`
      : `is an address of ${owner.cluster}`;
  }

  #memberOf(address: Address): string | undefined {
    const owner = this.#inputs.ipcache.lookup(address)?.origin;
    if (owner === undefined || owner.source === 'policy') return undefined;
    return owner.source === 'local' ? 'is an address of this machine' : `is an address of ${owner.cluster}`;
  }
}

function isIn(all: readonly Prefix[], address: Address): boolean {
  const single = prefixOf(address, addressBits(address.family));
  return all.some((prefix) => contains(prefix, single));
}
