import { MeshError } from '../../core/errors.ts';
import {
  type Address,
  addressBits,
  type Family,
  formatAddress,
  formatPrefix,
  type Prefix,
  parseIpv6,
} from '../../core/ip.ts';
import type { NetlinkSocket } from '../../host/netlink.ts';
import type { DesiredChanges, DesiredOverlay, DesiredState } from '../desired.ts';
import { ForeignRoutes } from './foreign.ts';
import { LoopGuard, PrefixRanges } from './guard.ts';
import { collectKeys, HeldRoutes, WRONG } from './held.ts';
import { Pacer } from './pacer.ts';
import {
  describeRoute,
  dumpRoutes,
  type KernelRoute,
  metricOf,
  RouteBatch,
  type RouteChange,
  type RouteShape,
  sourceOf,
} from './routes.ts';

/** What one round of route changes works with. */
export interface RouteRound {
  readonly socket: NetlinkSocket;
  readonly desired: DesiredState;
  readonly overlay: DesiredOverlay;
  readonly shape: RouteShape;
  readonly ipv6Works: boolean;
  readonly changes: DesiredChanges;
  /** Called before anything is sent: the device must be fit for it. */
  beforeSend(): Promise<void>;
  /** Called after each batch. */
  afterSend(): Promise<void>;
}

export interface RouteReport {
  readonly added: number;
  readonly removed: number;
  /** Routes that the kernel refused; the next round tries them again. */
  readonly refused: number;
}

interface Work extends RouteRound {
  readonly batch: RouteBatch;
  readonly pacer: Pacer;
  readonly everything: boolean;
}

/** Refusals in one round after which something else is wrong than single routes. */
const TOO_MANY = 1000;

/** The routes of the overlay: what the kernel holds, and the way to what is desired. */
export class OverlayRoutes {
  readonly held = new HeldRoutes();
  readonly foreign = new ForeignRoutes();
  readonly #refused = new Map<string, { readonly prefix: Prefix; readonly reason: string }>();
  /** Routes that the guard against loops keeps out, by prefix. */
  readonly #leftOut = new Map<string, { readonly prefix: Prefix; readonly reason: string }>();
  #shape = '';
  #strays: KernelRoute[] = [];
  #guard = new LoopGuard([]);
  #own = new LoopGuard([]);
  #guardedVias = 0;
  /** Prefixes of one single address, which are kept with the single addresses. */
  #singles = new Map<string, { readonly prefix: Prefix; readonly via: Address }>();
  #outer6 = false;

  /** Whether some outer packets go over IPv6; once true it stays so until the kernel is read again. */
  get outer6(): boolean {
    return this.#outer6;
  }

  /** Reasons of the kernel, and those of the guard against loops. */
  get refused(): string[] {
    return [...this.#refused.values()].map(({ reason }) => reason);
  }

  get leftOut(): string[] {
    return [...this.#leftOut.values()].map(({ reason }) => reason);
  }

  /** Prefixes whose packets take a route of somebody else. */
  get shadowed(): string[] {
    return this.foreign.shadowed((prefix) => this.holds(prefix));
  }

  /** The kernel holds none (any more). */
  clear(): void {
    this.held.clear();
    this.#strays = [];
    this.#refused.clear();
    this.#leftOut.clear();
    this.#outer6 = false;
  }

  /** The kernel dropped those of a family. */
  lost(family: Family): void {
    this.held.hosts(family).clear();
    for (const [text, { prefix }] of this.held.prefixes) if (prefix.family === family) this.held.prefixes.delete(text);
  }

  /** What the kernel holds now. Throws NetlinkError. */
  async read(socket: NetlinkSocket, shape: RouteShape): Promise<void> {
    for (let attempt = 0; attempt < 3; attempt++) {
      this.clear();
      this.foreign.clear();
      this.#shape = JSON.stringify(shape);
      const { interrupted } = await dumpRoutes(socket, shape, {
        own: (route) => this.#hold(route),
        foreign: (route) => this.foreign.added(route),
      });
      if (!interrupted) return;
    }
  }

  #hold(route: KernelRoute): void {
    // One route for each prefix; a second one is left of a change that was cut off, or of another version.
    if (route.metric !== metricOf(route.via) || this.holds(route.prefix)) {
      this.#strays.push(route);
      return;
    }
    const number = this.#number(route.via);
    this.#set(route.prefix, route.right ? number : (number | WRONG) >>> 0);
  }

  holds(prefix: Prefix): boolean {
    return this.#get(prefix) !== undefined;
  }

  #get({ family, words, bits }: Prefix): number | undefined {
    if (bits === addressBits(family)) return this.held.getHost(family, words);
    return this.held.prefixes.get(formatPrefix({ family, words, bits }))?.via;
  }

  #set(prefix: Prefix, number: number | undefined): void {
    const { family, words, bits } = prefix;
    if (bits === addressBits(family)) {
      if (number === undefined) this.held.hosts(family).remove(words);
      else this.held.setHost(family, words, number);
    } else if (number === undefined) this.held.prefixes.delete(formatPrefix(prefix));
    else this.held.setPrefix(prefix, number);
  }

  /** Brings the routes there. @throws MeshError OVL-ROUTE when most are refused, NetlinkError */
  async write(round: RouteRound): Promise<RouteReport> {
    const shape = JSON.stringify(round.shape);
    const reshaped = shape !== this.#shape;
    // Each route is replaced by itself, so that none is missing for a moment.
    if (reshaped) this.held.allWrong();
    this.#shape = shape;
    const { changes } = round;
    const everything = reshaped || changes.everything === true;
    const batch = new RouteBatch(round.socket, round.shape, (change, error) => this.#notMade(change, error));
    const work: Work = { ...round, batch, pacer: new Pacer(), everything };
    const settings = everything || changes.overlay === true || changes.border === true;
    const retried = [...this.#refused.values()].map(({ prefix }) => prefix);
    // The guard may let in now what it kept out before.
    if (settings) retried.push(...[...this.#leftOut.values()].map(({ prefix }) => prefix));
    this.#refused.clear();
    if (settings) this.#renewGuard(work);
    // A change that was cut off left two routes: the second one goes before anything can want its place.
    const doubles = this.#strays.filter(({ prefix }) => this.holds(prefix));
    await this.#removeStrays(work, doubles);
    // Wider routes come before the single ones that they replace go, and the other way around.
    const unwanted = settings ? await this.#writePrefixes(work) : [];
    if (everything) await this.#writeAllHosts(work);
    else await this.#writeChangedHosts(work, retried);
    for (const prefix of unwanted) await this.#putPrefix(work, prefix, undefined);
    await this.#removeStrays(work, this.#strays);
    await this.#send(work);
    await this.#keepViasOut(work);
    return { added: batch.added, removed: batch.removed, refused: this.#refused.size };
  }

  #notMade(change: RouteChange, error: Error): void {
    const { prefix, via, held } = change;
    this.#refused.set(formatPrefix(prefix), { prefix, reason: `${describeRoute(change)}: ${error.message}` });
    if (via !== undefined) this.#set(prefix, held ? (this.#number(via) | WRONG) >>> 0 : undefined);
  }

  #renewGuard(work: Work): void {
    const { overlay, desired } = work;
    const own = [overlay.source4, overlay.source6, ...overlay.ownAddresses].filter((each) => each !== undefined);
    const vias = [...overlay.prefixRoutes()].map(({ via }) => via);
    this.#own = new LoopGuard(own);
    this.#guard = new LoopGuard([...own, ...desired.border.nodes, ...vias, ...this.held.vias]);
    this.#guardedVias = this.held.vias.length;
    this.#leftOut.clear();
  }

  /** Adds and replaces. @returns what is to be removed once the single addresses in it have routes of their own */
  async #writePrefixes(work: Work): Promise<Prefix[]> {
    const wanted = new Map<string, { readonly prefix: Prefix; readonly via: Address }>();
    const singles = new Map<string, { readonly prefix: Prefix; readonly via: Address }>();
    for (const route of work.overlay.prefixRoutes()) {
      const text = formatPrefix(route.prefix);
      if (route.prefix.bits === addressBits(route.prefix.family)) singles.set(text, route);
      else if (this.#mayRoute(work, route.prefix, route.via)) wanted.set(text, route);
    }
    const touched = [...singles.values(), ...this.#singles.values()].map(({ prefix }) => prefix);
    this.#singles = singles;
    for (const [text, { prefix, via }] of wanted) {
      if (!this.held.prefixes.has(text)) touched.push(prefix);
      await this.#putPrefix(work, prefix, via);
    }
    const unwanted = [...this.held.prefixes].filter(([text]) => !wanted.has(text)).map(([, { prefix }]) => prefix);
    if (!work.everything) {
      // What became a node must lose its own route.
      const nodes = work.desired.border.nodes.filter(
        (node) => this.held.getHost(node.family, node.words) !== undefined,
      );
      for (const node of nodes) await this.#putHost(work, node.family, node.words);
      await this.#writeHostsWithin(work, [...touched, ...unwanted]);
    }
    return unwanted;
  }

  #mayRoute(work: Work, prefix: Prefix, via: Address): boolean {
    if (!carries(work, prefix.family)) return false;
    const inside = this.#guard.within(prefix);
    if (inside === undefined && !this.#own.has(via.family, via.words)) return true;
    const why = inside === undefined ? 'leads back to this machine' : `would lead ${inside} into the overlay`;
    const text = formatPrefix(prefix);
    this.#leftOut.set(text, { prefix, reason: `${text} via ${formatAddress(via)} ${why}` });
    return false;
  }

  async #putPrefix(work: Work, prefix: Prefix, via: Address | undefined): Promise<void> {
    this.#change(work, prefix, via);
    if (needsBreath(work)) await this.#breathe(work);
  }

  /** Another tunnel endpoint is another metric, so the new route comes beside the old one, which then goes. */
  #change(work: Work, prefix: Prefix, via: Address | undefined): void {
    const before = this.#get(prefix);
    const after = via === undefined ? undefined : this.#number(via);
    if (before === after) return;
    const old = before === undefined ? undefined : metricOf(this.held.via(before));
    const metric = via === undefined ? undefined : metricOf(via);
    if (via !== undefined && metric !== undefined) {
      work.batch.put({ prefix, via, metric, held: metric === old });
    }
    if (old !== undefined && old !== metric) {
      work.batch.put({ prefix, via: undefined, metric: old, held: true });
    }
    this.#set(prefix, after);
  }

  #number(via: Address): number {
    if (via.family === 6) this.#outer6 = true;
    return this.held.number(via);
  }

  async #writeAllHosts(work: Work): Promise<void> {
    this.held.beginSweep();
    for (const family of [4, 6] as const) {
      if (carries(work, family)) {
        await this.#putHosts(work, family, collectKeys(desiredHosts(work, family), { keyWords: keyWords(family) }));
        for (const { prefix } of this.#singles.values()) {
          if (prefix.family === family) await this.#putHost(work, family, prefix.words);
        }
      }
      // Looked up once more: what the listing missed because it changed meanwhile is not taken away.
      await this.#putHosts(work, family, this.held.untouched(family));
    }
  }

  /** Of single addresses, those that a wider route has come to cover, or no longer covers. */
  async #writeHostsWithin(work: Work, prefixes: readonly Prefix[]): Promise<void> {
    const ranges = new PrefixRanges(prefixes);
    for (const family of [4, 6] as const) {
      if (ranges.empty(family)) continue;
      const passes = (_: number, key: Uint32Array): boolean => ranges.has(family, key);
      const shape = { keyWords: keyWords(family), passes };
      await this.#putHosts(work, family, collectKeys(desiredHosts(work, family), shape));
      await this.#putHosts(work, family, collectKeys(this.held.hosts(family), shape));
    }
    for (const { prefix } of this.#singles.values()) await this.#putHost(work, prefix.family, prefix.words);
  }

  async #writeChangedHosts(work: Work, retried: readonly Prefix[]): Promise<void> {
    if (retried.length > 0) await this.#retry(work, retried);
    for (const word of work.changes.hosts4 ?? []) await this.#putHost(work, 4, [word >>> 0]);
    for (const text of work.changes.hosts6 ?? []) {
      const key = parseIpv6(text);
      if (key !== undefined) await this.#putHost(work, 6, key);
    }
  }

  async #retry(work: Work, prefixes: readonly Prefix[]): Promise<void> {
    const wanted = new Map<string, Address>();
    for (const { prefix, via } of work.overlay.prefixRoutes()) wanted.set(formatPrefix(prefix), via);
    for (const prefix of prefixes) {
      const via = wanted.get(formatPrefix(prefix));
      if (prefix.bits === addressBits(prefix.family)) await this.#putHost(work, prefix.family, prefix.words);
      else await this.#putPrefix(work, prefix, via && this.#mayRoute(work, prefix, via) ? via : undefined);
    }
  }

  async #putHosts(work: Work, family: Family, keys: Uint32Array): Promise<void> {
    const words = keyWords(family);
    for (let at = 0; at < keys.length; at += words) {
      this.#changeHost(work, family, Array.from(keys.subarray(at, at + words)));
      if (needsBreath(work)) await this.#breathe(work);
    }
  }

  async #putHost(work: Work, family: Family, key: readonly number[]): Promise<void> {
    this.#changeHost(work, family, key);
    if (needsBreath(work)) await this.#breathe(work);
  }

  #changeHost(work: Work, family: Family, words: readonly number[]): void {
    this.#change(work, { family, words, bits: addressBits(family) }, this.#hostVia(work, family, words));
    this.held.touch(family, words);
  }

  #hostVia(work: Work, family: Family, words: readonly number[]): Address | undefined {
    if (!carries(work, family)) return undefined;
    let via = work.overlay.hostRoute(family, words);
    if (via === undefined && this.#singles.size > 0) {
      via = this.#singles.get(formatPrefix({ family, words, bits: addressBits(family) }))?.via;
    }
    if (via === undefined) return undefined;
    const itself = this.#guard.has(family, words);
    if (!itself && !this.#own.has(via.family, via.words)) return via;
    const prefix: Prefix = { family, words, bits: addressBits(family) };
    const why = itself ? 'is a node or this machine itself' : 'leads back to this machine';
    const reason = `${formatAddress(prefix)} via ${formatAddress(via)} ${why}`;
    this.#leftOut.set(formatPrefix(prefix), { prefix, reason });
    return undefined;
  }

  async #removeStrays(work: Work, strays: readonly KernelRoute[]): Promise<void> {
    if (strays.length === 0) return;
    this.#strays = this.#strays.filter((stray) => !strays.includes(stray));
    for (const { prefix, metric } of strays) {
      work.batch.put({ prefix, via: undefined, metric, held: true });
      if (needsBreath(work)) await this.#breathe(work);
    }
  }

  /** Tunnel endpoints that nobody announced as a node came up while routes were written: none may lead through itself. */
  async #keepViasOut(work: Work): Promise<void> {
    const fresh = this.held.vias.slice(this.#guardedVias);
    if (fresh.length === 0) return;
    const leftOut = new Map(this.#leftOut);
    this.#renewGuard(work);
    for (const [text, each] of leftOut) this.#leftOut.set(text, each);
    for (const via of fresh) {
      if (this.held.getHost(via.family, via.words) !== undefined) await this.#putHost(work, via.family, via.words);
    }
    const inside = new LoopGuard(fresh);
    for (const { prefix } of [...this.held.prefixes.values()]) {
      const via = inside.within(prefix);
      if (via === undefined) continue;
      const text = formatPrefix(prefix);
      this.#leftOut.set(text, { prefix, reason: `${text} would lead ${via} into the overlay` });
      await this.#putPrefix(work, prefix, undefined);
    }
    await this.#send(work);
  }

  async #breathe(work: Work): Promise<void> {
    if (work.batch.full) await this.#send(work);
    else await work.pacer.pause();
  }

  async #send(work: Work): Promise<void> {
    await work.beforeSend();
    await work.batch.flush();
    await work.afterSend();
    work.pacer.rested();
    if (this.#refused.size > TOO_MANY) throw this.refusal();
  }

  refusal(): MeshError {
    const first = this.#refused.values().next().value?.reason ?? '';
    const more = this.#refused.size > 1 ? `; and ${this.#refused.size - 1} more` : '';
    return new MeshError('OVL-ROUTE', `${first}${more}`);
  }
}

/** Whether routes of a family are of use: there is a source, and the device knows the family. */
function carries(work: Work, family: Family): boolean {
  return sourceOf(work.shape, family) !== undefined && (family === 4 || work.ipv6Works);
}

function needsBreath(work: Work): boolean {
  return work.batch.full || work.pacer.due;
}

function keyWords(family: Family): 1 | 4 {
  return family === 4 ? 1 : 4;
}

function desiredHosts(work: Work, family: Family): DesiredState['addresses']['hosts4'] {
  return family === 4 ? work.desired.addresses.hosts4 : work.desired.addresses.hosts6;
}
