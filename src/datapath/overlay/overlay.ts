import { setImmediate as nextTurn } from 'node:timers/promises';
import { MeshError, messageOf } from '../../core/errors.ts';
import { type Address, type Family, formatAddress, formatPrefix } from '../../core/ip.ts';
import { TokenBucket } from '../../core/token-bucket.ts';
import { type LinkAddress, readAddresses } from '../../host/links.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../../host/netlink.ts';
import { NetlinkError } from '../../host/netlink-error.ts';
import { SCOPE } from '../../host/rtnetlink.ts';
import type { DesiredChanges, DesiredOverlay, DesiredState } from '../desired.ts';
import { DeviceAddresses } from './addresses.ts';
import { ensureDevice, isFitting, type OverlayDevice, ownDevices, readDevice, removeLink } from './device.ts';
import { TunnelEndpoints } from './endpoints.ts';
import { OverlayRoutes, type RouteReport, type RouteRound } from './plan.ts';
import { dumpRoutes, isOurMetric, PROTOCOL, type RouteFacts, type RouteShape } from './routes.ts';
import type { OverlayStatus } from './status.ts';
import { OverlayWatch } from './watch.ts';

export interface OverlayLog {
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
}

export interface OverlayOptions {
  readonly log?: OverlayLog;
}

/** Outer Ethernet, IP, UDP and VXLAN headers, by the family of the outer packets. */
const OVERHEAD = { 4: 50, 6: 70 } as const;
const MIN_MTU = 576;
const MIN_MTU_IPV6 = 1280;
const EXAMPLES = 5;
/** The index of no device. */
const NO_DEVICE = -1;
const LOOK_MS = 5;
/** A program that fights over our device must not keep the agent busy: so many changes are answered at once, then later. */
const HASTY = { burst: 20, perSecond: 1 } as const;
const LATE_MS = 1000;

/**
 * Device, addresses and routes of the overlay in the network namespace of this process. Two steps, because the policy
 * must know the device before any route leads to it:
 *
 *   prepare   the device is there and up            (or all is gone, when no overlay is wanted)
 *   apply     own addresses, then the routes
 *
 * A restarted process knows its device by alias and settings, its routes by device, protocol and metric, and changes
 * only what is not right. Identity or source of the routes change by replacement, without a gap.
 */
export class Overlay {
  readonly #log: OverlayLog | undefined;
  readonly #routes = new OverlayRoutes();
  #socket: NetlinkSocket | undefined;
  #events: OverlayWatch | undefined;
  #listener: (what: string) => void = () => undefined;
  #overlay: DesiredOverlay | undefined;
  #device: OverlayDevice | undefined;
  /** Of our allocation range, as text with length. */
  #ownAddresses: ReadonlySet<string> = new Set();
  /** What the kernel holds is not known: it is read before the next change. */
  #stale = true;
  /** The next `apply` compares everything. */
  #fresh = true;
  #suspect = false;
  #healing = false;
  #busy = false;
  #applied = false;
  #look: NodeJS.Timeout | undefined;
  #late: NodeJS.Timeout | undefined;
  readonly #haste = new TokenBucket(HASTY);
  #error: OverlayStatus['error'];
  #drifted = 0;
  #healed = 0;

  constructor(options: OverlayOptions = {}) {
    this.#log = options.log;
  }

  /** Begins to watch; changes nothing. Throws NetlinkError. */
  async open(): Promise<void> {
    this.#socket = new NetlinkSocket({ family: NETLINK_ROUTE });
    this.#events = new OverlayWatch(this.#socket.portId, {
      onRoute: (change, route) => this.#onRoute(change, route),
      onLink: (link) => {
        const mine = this.#device?.link;
        if (!link.up) this.#routes.foreign.deviceDown(link.index);
        if (mine !== undefined && (link.index === mine.index || link.name === mine.name)) this.#lookSoon();
      },
      onAddress: (change, address) => this.#onAddress(change, address),
      onLost: () => this.#drift('events were lost'),
    });
  }

  get #netlink(): NetlinkSocket {
    if (this.#socket === undefined) throw new MeshError('OVL-APPLY', 'the overlay is not open');
    return this.#socket;
  }

  /**
   * Makes the device be there and up, with no new route; without a desired overlay, takes device and routes away.
   * @throws MeshError OVL-*, HST-*
   */
  async prepare(desired: DesiredState): Promise<void> {
    await this.#guarded(async () => {
      const overlay = desired.overlay;
      this.#overlay = overlay;
      if (this.#suspect) {
        this.#suspect = false;
        this.#healing = overlay !== undefined;
        this.#stale = true;
      }
      if (overlay === undefined) {
        if (this.#stale || this.#device !== undefined) await this.#removeAll();
        this.#error = undefined;
        return;
      }
      if (this.#stale) await this.#readKernel(overlay);
      else if (this.#isPrepared(overlay)) return;
      await this.#ensure(overlay);
      this.#stale = false;
    });
  }

  #isPrepared(overlay: DesiredOverlay): boolean {
    const link = this.#device?.link;
    if (link === undefined || link.name !== overlay.device || link.mtu !== this.#mtu(overlay)) return false;
    return isFitting(link, overlay.port) && !(overlay.source6 !== undefined && this.#device?.ipv6?.disabled === true);
  }

  async #ensure(overlay: DesiredOverlay): Promise<void> {
    const { device: name, port } = overlay;
    const settings = { name, port, mtu: this.#mtu(overlay), ipv6: overlay.source6 !== undefined };
    const before = this.#device?.link.index;
    const device = await ensureDevice(this.#netlink, settings, (text) => this.#log?.warn({ device: name }, text));
    if (before !== device.link.index) {
      this.#routes.clear();
      this.#fresh = true;
      this.#log?.info({ device: name, mtu: device.link.mtu }, 'overlay device is there');
    }
    this.#device = device;
  }

  #mtu(overlay: DesiredOverlay): number {
    const outer = overlay.source4 === undefined || this.#routes.outer6 ? 6 : 4;
    return Math.max(MIN_MTU, overlay.underlayMtu - OVERHEAD[outer]);
  }

  /** Device and routes as they are; devices of other names that bear our mark are taken away. */
  async #readKernel(overlay: DesiredOverlay): Promise<void> {
    const socket = this.#netlink;
    this.#fresh = true;
    this.#device = undefined;
    this.#routes.clear();
    for (const link of await ownDevices(socket)) {
      if (link.name !== overlay.device) await removeLink(socket, link);
    }
    const device = await readDevice(socket, overlay.device);
    const fitting = device !== undefined && isFitting(device.link, overlay.port);
    await this.#routes.read(socket, shapeOf(overlay, fitting ? device.link.index : NO_DEVICE));
    if (fitting) this.#device = device;
  }

  /** Call `prepare` first. Never called twice at once. @throws MeshError OVL-*, HST-* */
  async apply(desired: DesiredState, changes: DesiredChanges): Promise<RouteReport> {
    const overlay = desired.overlay;
    if (overlay === undefined) return { added: 0, removed: 0, refused: 0 };
    return this.#guarded(async () => {
      const device = this.#device;
      if (device === undefined || this.#stale) throw new MeshError('OVL-APPLY', 'the device is not prepared');
      const everything = this.#fresh || changes.everything === true;
      const addresses =
        everything || changes.overlay === true ? await this.#addOwnAddresses(overlay, device) : undefined;
      const round = this.#round(desired, overlay, device);
      let report = await this.#routes.write({ ...round, changes: { ...changes, everything } });
      if ((await addresses?.removeOthers()) === true) {
        this.#routes.lost(4);
        report = await this.#routes.write({ ...round, changes: { everything: true } });
      }
      if (this.#healing) this.#healed++;
      this.#healing = false;
      this.#fresh = false;
      this.#applied = true;
      this.#settleError();
      return report;
    });
  }

  #round(desired: DesiredState, overlay: DesiredOverlay, device: OverlayDevice): Omit<RouteRound, 'changes'> {
    return {
      socket: this.#netlink,
      desired,
      overlay,
      shape: shapeOf(overlay, device.link.index),
      ipv6Works: this.#ipv6Works(),
      // A larger packet must not meet a route over IPv6 before the device knows the smaller size.
      beforeSend: async () => {
        if ((this.#device?.link.mtu ?? 0) > this.#mtu(overlay)) await this.#ensure(overlay);
      },
      afterSend: () => this.#hearEchoes(),
    };
  }

  /** They come before the routes that have them as their source, and go after these. */
  async #addOwnAddresses(overlay: DesiredOverlay, device: OverlayDevice): Promise<DeviceAddresses> {
    const works = (family: Family): boolean => family === 4 || this.#ipv6Works();
    const wanted = overlay.ownAddresses.filter(({ family }) => works(family));
    this.#ownAddresses = new Set(wanted.map(formatPrefix));
    const addresses = await DeviceAddresses.read(this.#netlink, device.link, wanted);
    await addresses.addMissing();
    const present = new Set((await readAddresses(this.#netlink)).map(({ address }) => formatAddress(address)));
    for (const source of [overlay.source4, overlay.source6]) {
      if (source === undefined || !works(source.family) || present.has(formatAddress(source))) continue;
      throw new MeshError('OVL-SOURCE', formatAddress(source), { place: overlay.device });
    }
    return addresses;
  }

  /**
   * The kernel tells everyone who watches routes of each one. Whoever writes faster than the events are read makes all
   * watchers of this process lose some: so a batch is followed by turns of the event loop until no more arrive.
   */
  async #hearEchoes(): Promise<void> {
    for (let heard = -1; this.#events !== undefined && heard !== this.#events.echoes; ) {
      heard = this.#events.echoes;
      // The first turn may be the rest of this one, which reads no sockets.
      await nextTurn();
      await nextTurn();
    }
  }

  #ipv6Works(): boolean {
    const device = this.#device;
    return device?.ipv6 !== undefined && !device.ipv6.disabled && device.link.mtu >= MIN_MTU_IPV6;
  }

  #settleError(): void {
    if (this.#routes.refused.length > 0) this.#setError(this.#routes.refusal());
    else if (this.#overlay?.source6 !== undefined && !this.#ipv6Works()) {
      const mtu = this.#device?.link.mtu ?? 0;
      const why = mtu < MIN_MTU_IPV6 ? `its MTU of ${mtu} is below ${MIN_MTU_IPV6}` : 'it is turned off there';
      this.#setError(new MeshError('OVL-KERNEL', `no IPv6 on ${this.#overlay.device}: ${why}`));
    } else this.#error = undefined;
  }

  #setError(error: MeshError): void {
    const since = this.#error?.code === error.code ? this.#error.since : Date.now();
    this.#error = { code: error.code, message: error.message, since };
  }

  /** After a failure, what the kernel took of it is unknown. */
  async #guarded<T>(work: () => Promise<T>): Promise<T> {
    this.#busy = true;
    try {
      return await work();
    } catch (error) {
      this.#stale = true;
      const failure = explain(error);
      this.#setError(failure);
      throw failure;
    } finally {
      this.#busy = false;
    }
  }

  async #removeAll(): Promise<void> {
    const socket = this.#netlink;
    // From here on what vanishes is our own doing.
    this.#device = undefined;
    for (const link of await ownDevices(socket)) {
      await removeLink(socket, link);
      this.#log?.info({ device: link.name }, 'overlay removed');
    }
    this.#routes.clear();
    this.#ownAddresses = new Set();
    this.#applied = false;
    this.#fresh = true;
    this.#suspect = false;
    this.#healing = false;
    this.#stale = false;
  }

  #onRoute(change: 'added' | 'removed', route: RouteFacts): void {
    const device = this.#device?.link.index;
    if (device === undefined) return;
    const ours = route.device === device && route.protocol === PROTOCOL;
    if (!ours) this.#routes.foreign[change](route);
    if (!isOurMetric(route.metric) || this.#suspect) return;
    // While the kernel is being read nothing is held yet; what it tells then is what it holds afterwards.
    if (change === 'added' && ours) this.#drift(`route ${formatPrefix(route.prefix)} was added`);
    else if (this.#routes.holds(route.prefix)) {
      const what = change === 'added' ? 'replaced' : 'removed';
      if (ours || change === 'added') this.#drift(`route ${formatPrefix(route.prefix)} was ${what}`);
    }
  }

  #onAddress(change: 'added' | 'removed', { link, address, bits, scope }: LinkAddress): void {
    const device = this.#device?.link.index;
    const overlay = this.#overlay;
    if (device === undefined || overlay === undefined || scope === SCOPE.link) return;
    const text = formatAddress(address);
    const isSource = [overlay.source4, overlay.source6].some(
      (each) => each !== undefined && formatAddress(each) === text,
    );
    const isWanted = link === device && this.#ownAddresses.has(`${text}/${bits}`);
    if (change === 'removed') {
      // The kernel drops the routes of IPv4 that have it as their source without a word.
      if (isSource || isWanted) this.#drift(`address ${text} was removed`);
    } else if (link === device && !isWanted) this.#drift(`address ${text} was added`);
    else if (isSource && this.#error !== undefined) this.#drift(`address ${text} is there`);
  }

  #lookSoon(): void {
    this.#look ??= setTimeout(() => {
      this.#look = undefined;
      if (this.#busy) this.#lookSoon();
      else void this.#lookAtDevice().catch((error: unknown) => this.#drift(messageOf(error)));
    }, LOOK_MS).unref();
  }

  /** Events about a device do not tell who caused them: what counts is whether it still is as we left it. */
  async #lookAtDevice(): Promise<void> {
    const mine = this.#device;
    if (mine === undefined || this.#socket === undefined || this.#suspect) return;
    const { name } = mine.link;
    const now = await readDevice(this.#socket, name);
    if (this.#device !== mine || this.#busy) return;
    if (now === undefined) this.#drift(`device ${name} is gone`);
    else if (now.link.index !== mine.link.index) this.#drift(`device ${name} is another one`);
    else if (!now.link.up) this.#drift(`device ${name} is down`);
    else if (now.link.mtu !== mine.link.mtu || now.noArp !== mine.noArp) this.#drift(`device ${name} was changed`);
  }

  #drift(what: string): void {
    if (this.#suspect || this.#device === undefined) return;
    this.#suspect = true;
    this.#drifted++;
    this.#log?.warn({ what }, 'the overlay was changed from outside');
    this.#late ??= this.#haste.take() ? undefined : setTimeout(() => this.#tellLate(what), LATE_MS).unref();
    if (this.#late === undefined) this.#listener(what);
  }

  #tellLate(what: string): void {
    this.#late = undefined;
    if (this.#suspect) this.#listener(what);
  }

  /** Called when a foreign hand changed what is ours; the caller answers with `prepare` and `apply`. */
  onDrift(listener: (what: string) => void): void {
    this.#listener = listener;
  }

  /** By the routes in the kernel, read now. Throws NetlinkError. */
  async tunnelEndpoints(): Promise<TunnelEndpoints> {
    const endpoints = new TunnelEndpoints();
    const socket = this.#netlink;
    const link = this.#device?.link ?? (await ownDevices(socket))[0];
    if (link === undefined) return endpoints;
    const nothing = { source4: undefined, source6: undefined, outer4: undefined, outer6: undefined };
    await dumpRoutes(
      socket,
      { device: link.index, identity: 0, ...nothing },
      {
        own: (route) => endpoints.add(route),
      },
    );
    return endpoints;
  }

  get status(): OverlayStatus {
    const { refused, leftOut, held, shadowed } = this.#routes;
    return {
      applied: this.#applied && this.#error === undefined && !this.#suspect && !this.#stale,
      device: this.#overlay?.device,
      mtu: this.#device?.link.mtu,
      routes: held.size,
      refused: { count: refused.length + leftOut.length, examples: [...refused, ...leftOut].slice(0, EXAMPLES) },
      shadowed: { count: shadowed.length, examples: shadowed.slice(0, EXAMPLES) },
      error: this.#error,
      drifted: this.#drifted,
      healed: this.#healed,
    };
  }

  /** Takes our device away, with its addresses and routes. Throws MeshError. */
  async remove(): Promise<void> {
    await this.#guarded(() => this.#removeAll());
    this.#overlay = undefined;
    this.#error = undefined;
  }

  /** Stops watching; device and routes stay as they are. */
  async close(): Promise<void> {
    clearTimeout(this.#look);
    clearTimeout(this.#late);
    this.#device = undefined;
    this.#events?.close();
    this.#socket?.close();
    this.#socket = undefined;
  }
}

/** An address of our allocation range is known inside the overlay only: outer packets leave with the underlay's. */
function shapeOf(overlay: DesiredOverlay, device: number): RouteShape {
  const inside = new Set(overlay.ownAddresses.map(formatAddress));
  const outer = (source: Address | undefined): Address | undefined =>
    source === undefined || inside.has(formatAddress(source)) ? undefined : source;
  const { identity, source4, source6 } = overlay;
  return { device, identity, source4, source6, outer4: outer(source4), outer6: outer(source6) };
}

function explain(error: unknown): MeshError {
  if (error instanceof NetlinkError && error.code === 'HST-NETLINK') {
    return new MeshError('OVL-APPLY', error.message, { cause: error });
  }
  return error instanceof MeshError ? error : new MeshError('OVL-APPLY', messageOf(error), { cause: error });
}
