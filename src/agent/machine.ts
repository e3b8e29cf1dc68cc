import type { Health } from '../api/health.ts';
import type { Config } from '../config/config.ts';
import { messageOf } from '../core/errors.ts';
import { type Address, addressBits, formatAddress, type Prefix, parseAddress, prefixOf } from '../core/ip.ts';
import { classifyDevices, type DeviceRole, externalDevices } from '../datapath/devices.ts';
import { ownAddress } from '../datapath/own-address.ts';
import { LinkWatch } from '../host/link-watch.ts';
import type { LinkState } from '../host/links.ts';

export const OVERLAY_DEVICE = 'mesh_vxlan';

export interface MachineOptions {
  /** What is in force: another one after a reload. */
  readonly config: () => Pick<Config, 'address' | 'devices'>;
  readonly health: Health;
  /** Told only of what matters outside: a container's device that comes or goes is no change. */
  readonly onChange: (change: MachineChange) => void;
}

export interface MachineChange {
  /** The machine is known by other addresses now. */
  readonly own: boolean;
  /** Addresses went away, or the way out is another one: what was connected over them may be dead. */
  readonly network: boolean;
}

/** What others depend on, as text. */
interface Told {
  readonly own: string;
  readonly gateways: string;
  readonly addresses: ReadonlySet<string>;
  readonly border: string;
}

const SCOPE_LINK = 253;
const NOTHING: Told = { own: '', gateways: '', addresses: new Set(), border: '' };

/** This machine as the network sees it: its addresses, its devices and their roles, followed live. */
export class Machine {
  readonly #options: MachineOptions;
  #watch: LinkWatch | undefined;
  #state: LinkState = { links: [], addresses: [], defaultRoutes: [] };
  #devices: readonly DeviceRole[] = [];
  #ipv4: Address | undefined;
  #ipv6: Address | undefined;
  #told = NOTHING;

  constructor(options: MachineOptions) {
    this.#options = options;
  }

  get ipv4(): Address | undefined {
    return this.#ipv4;
  }

  get ipv6(): Address | undefined {
    return this.#ipv6;
  }

  get devices(): readonly DeviceRole[] {
    return this.#devices;
  }

  get external(): readonly string[] {
    return externalDevices(this.#devices);
  }

  /** Families in which it has an address of its own. */
  get families(): (4 | 6)[] {
    return [this.#ipv4, this.#ipv6].flatMap((address) => (address === undefined ? [] : [address.family]));
  }

  /** Both families carry an address: the world is 9 and 10 then, else 2. */
  get dualStack(): boolean {
    return this.#ipv4 !== undefined && this.#ipv6 !== undefined;
  }

  /** Every address of the machine, on whatever device, but those that are valid on one link only. */
  get addresses(): readonly Address[] {
    return this.#state.addresses.filter(({ scope }) => scope !== SCOPE_LINK).map(({ address }) => address);
  }

  /** Networks of its addresses: who is in them is reached without a router. */
  get networks(): readonly Prefix[] {
    return this.#state.addresses
      .filter(({ address, bits }) => bits < addressBits(address.family))
      .map(({ address, bits }) => prefixOf(address, bits));
  }

  get gateways(): readonly Address[] {
    return this.#state.defaultRoutes.map(({ gateway }) => gateway).filter((gateway) => gateway !== undefined);
  }

  /** MTU of the device that carries our address; 1500 while there is none. */
  get underlayMtu(): number {
    const own = [this.#ipv4, this.#ipv6].filter((address) => address !== undefined).map(formatAddress);
    const carrier = this.#state.addresses.find(({ address }) => own.includes(formatAddress(address)));
    return this.#state.links.find(({ index }) => index === carrier?.link)?.mtu ?? 1500;
  }

  /** Throws NetlinkError. */
  async open(): Promise<void> {
    this.#watch = new LinkWatch({
      onChange: (state) => this.#take(state),
      onError: (error) =>
        this.#options.health.set('devices', { code: 'HST-NETLINK', text: messageOf(error), severity: 'warning' }),
    });
    this.#take(await this.#watch.read());
  }

  /** Addresses or devices may be configured differently now. */
  reconfigure(): void {
    if (this.#watch !== undefined) this.#take(this.#state);
  }

  close(): void {
    this.#watch?.close();
  }

  #take(state: LinkState): void {
    const { health } = this.#options;
    this.#state = state;
    health.clear('devices', 'HST-NETLINK');
    this.#ipv4 = this.#own(4);
    this.#ipv6 = this.#own(6);
    const nodeAddresses = [this.#ipv4, this.#ipv6].filter((address) => address !== undefined);
    this.#devices = classifyDevices(state, {
      devices: this.#options.config().devices,
      overlayDevice: OVERLAY_DEVICE,
      nodeAddresses,
      previous: this.#devices,
    });
    health.check(
      'devices',
      'AGT-DEVICES',
      this.external.length > 0
        ? undefined
        : { text: 'no device leads out of this machine: nothing is judged', severity: 'warning' },
    );
    this.#tell();
  }

  #tell(): void {
    const before = this.#told;
    const addresses = new Set(this.addresses.map(formatAddress));
    this.#told = {
      own: textOf([this.#ipv4, this.#ipv6]),
      gateways: textOf(this.gateways),
      addresses,
      border: [...this.external, this.underlayMtu].join(' '),
    };
    const { own, gateways, border } = this.#told;
    const lost = [...before.addresses].some((address) => !addresses.has(address));
    const network = lost || own !== before.own || gateways !== before.gateways;
    const more = addresses.size !== before.addresses.size || border !== before.border;
    if (network || more) this.#options.onChange({ own: own !== before.own, network });
  }

  #own(family: 4 | 6): Address | undefined {
    const { ipv4, ipv6 } = this.#options.config().address;
    const text = family === 4 ? ipv4 : ipv6;
    const configured = text === undefined || text === '' ? undefined : parseAddress(text);
    return ownAddress(this.#state, { family, configured, overlayDevice: OVERLAY_DEVICE }).address;
  }
}

function textOf(addresses: readonly (Address | undefined)[]): string {
  return addresses.map((address) => (address === undefined ? '-' : formatAddress(address))).join(' ');
}
