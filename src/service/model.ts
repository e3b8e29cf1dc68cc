import { type Address, addressBits, contains, formatAddress, type Prefix, parseAddress, prefixOf } from '../core/ip.ts';
import type { ServicePort } from '../kvstore/codec/service.ts';
import { CheckPlans } from './check-plans.ts';
import { Claims } from './claims.ts';
import type { AddressFacts, ClusterFacts, ServiceFact } from './facts.ts';
import { type NamedBackend, type NamedService, namedFrontends } from './names.ts';
import { type Pool, poolsOf } from './pools.ts';
import { protocolOf } from './ports.ts';
import { type ResolveContext, type Resolved, resolvePool } from './resolve.ts';
import type { CheckPlan, FrontendKey, PlaceKey, ServiceFrontend, ServiceMap, ServiceView } from './result.ts';
import { sameFrontend } from './same.ts';
import { DEFAULT_SETTINGS, type ServiceSettings } from './settings.ts';
import { consideredOf } from './share.ts';
import { Since } from './since.ts';
import { type Tally, tallyOf } from './tally.ts';

const PRESENT: ClusterFacts = { lostSince: undefined };
/** Looks at the clock are not free. */
const STRIDE = 16;

/** Everything of one name, whichever clusters say it. */
interface Group {
  readonly services: Map<string, ServiceFact>;
  pools: readonly Pool[];
  /** What is in force of it. */
  keys: readonly FrontendKey[];
}

interface Owned {
  readonly group: string;
  readonly frontend: ServiceFrontend;
}

/**
 * Services of all clusters, resolved to frontends and their targets. Level-triggered: the result depends on the present
 * facts alone, whatever the order in which they came; only `since` of the views is of the past. Incremental: a changed
 * fact costs the services that it touches. Facts are taken in at once and worked into the result by `settle`.
 *
 *   services ──▶ groups by name ──▶ pools ──▶ claims on frontend addresses ──▶ frontends, each with its targets
 */
export class ServiceModel {
  readonly #facts: AddressFacts;
  readonly #now: () => number;
  readonly #groups = new Map<string, Group>();
  readonly #claims = new Claims();
  readonly #clusters = new Map<string, ClusterFacts>();
  readonly #frontends = new Map<FrontendKey, Owned>();
  /** Names of the groups that have an address as frontend or backend. */
  readonly #byAddress = new Map<string, string | Set<string>>();
  readonly #since = new Since();
  readonly #checks = new CheckPlans();
  /** Groups whose pools and claims are to be worked out again, and those that are to be resolved. */
  #unclaimed = new Set<string>();
  #unresolved = new Set<string>();
  #changed = new Set<FrontendKey>();
  readonly #tallies = new Map<string, Tally>();
  /** Backends of headless services, by pool. */
  readonly #headless = new Map<string, readonly NamedBackend[]>();
  /** How many pools of a kind each namespace has. */
  readonly #namespaces = new Map<string, number>();
  #problems = new Map<string, readonly string[]>();
  #settings: ServiceSettings = DEFAULT_SETTINGS;
  #joined: string | undefined;

  constructor(facts: AddressFacts, now: () => number) {
    this.#facts = facts;
    this.#now = now;
  }

  configure(settings: ServiceSettings): void {
    this.#settings = settings;
    this.#touchAll();
  }

  /** The cluster that this machine joined. */
  setJoined(cluster: string | undefined): void {
    if (cluster === this.#joined) return;
    this.#joined = cluster;
    this.#claims.joined = cluster;
    this.#touchAll();
  }

  /** One cluster's word on a service of a name, or that it has none. */
  setService(cluster: string, name: string, service: ServiceFact | undefined): void {
    const group = this.#groups.get(name) ?? { services: new Map<string, ServiceFact>(), pools: [], keys: [] };
    const before = group.services.get(cluster);
    if (before === undefined && service === undefined) return;
    if (service === undefined) group.services.delete(cluster);
    else group.services.set(cluster, service);
    this.#groups.set(name, group);
    for (const address of this.#addressesOf(before)) this.#unindex(address, name);
    // Of all clusters again: another one of the group may have the same address.
    for (const each of group.services.values())
      for (const address of this.#addressesOf(each)) this.#index(address, name);
    this.#unclaimed.add(name);
  }

  setCluster(cluster: string, facts: ClusterFacts): void {
    const before = this.#clusters.get(cluster) ?? PRESENT;
    if (before.lostSince === facts.lostSince) return;
    if (facts.lostSince === undefined) this.#clusters.delete(cluster);
    else this.#clusters.set(cluster, facts);
    if ((before.lostSince === undefined) === (facts.lostSince === undefined)) return;
    for (const [name, { services }] of this.#groups) if (services.has(cluster)) this.#unresolved.add(name);
  }

  /** What the check of a backend found out: why it fails, or that it passes. What is not checked any more has no result. */
  setHealth(pool: string, place: PlaceKey, failure: string | undefined): void {
    if (this.#checks.setFailure(pool, place, failure)) this.#unresolved.add(groupOf(pool));
  }

  /** What is to be checked for a service; undefined when nothing is. */
  planOf(pool: string): CheckPlan | undefined {
    return this.#checks.get(pool);
  }

  /** Pools whose checks changed since the last call. */
  drainPlans(): ReadonlySet<string> {
    return this.#checks.drain();
  }

  /** What `AddressFacts` says of an address may be another now. */
  addressChanged(address: Address | string): void {
    const found = this.#byAddress.get(typeof address === 'string' ? address : formatAddress(address));
    if (found === undefined) return;
    for (const name of typeof found === 'string' ? [found] : found) this.#unclaimed.add(name);
  }

  /** What it says of the addresses in a prefix may be another. */
  prefixChanged(prefix: Prefix): void {
    if (prefix.bits === addressBits(prefix.family)) {
      this.addressChanged(prefix);
      return;
    }
    for (const text of this.#byAddress.keys()) {
      const address = parseAddress(text);
      if (address?.family !== prefix.family) continue;
      if (contains(prefix, prefixOf(address, addressBits(address.family)))) this.addressChanged(text);
    }
  }

  /** What it says of any address may be another. */
  addressesChanged(): void {
    this.#touchAll();
  }

  /** Nothing is left to be worked out. */
  get settled(): boolean {
    return this.#unclaimed.size === 0 && this.#unresolved.size === 0;
  }

  /** Works facts into the result for about so many milliseconds. @returns whether nothing is left */
  settle(budgetMs = Number.POSITIVE_INFINITY): boolean {
    const end = performance.now() + budgetMs;
    let count = 0;
    const late = (): boolean => ++count % STRIDE === 0 && performance.now() >= end;
    // Who owns an address is known only when everybody has made his claims.
    for (const name of this.#unclaimed) {
      this.#unclaimed.delete(name);
      this.#claim(name);
      if (late()) return this.settled;
    }
    for (const name of this.#unresolved) {
      this.#unresolved.delete(name);
      this.#resolve(name);
      if (late()) return this.settled;
    }
    return true;
  }

  get frontends(): ServiceMap {
    const frontends = this.#frontends;
    return {
      get size() {
        return frontends.size;
      },
      get: (key) => frontends.get(key)?.frontend,
      keys: () => frontends.keys(),
    };
  }

  /** Frontends that changed since the last call. */
  drainChanges(): ReadonlySet<FrontendKey> {
    const changed = this.#changed;
    this.#changed = new Set();
    return changed;
  }

  get pending(): boolean {
    return this.#changed.size > 0;
  }

  /** The service that has a frontend. */
  ownerOf(key: FrontendKey): { readonly name: string; readonly global: boolean } | undefined {
    const owned = this.#frontends.get(key);
    const address = key.slice(0, key.indexOf(' '));
    if (owned === undefined) return undefined;
    return { name: owned.group, global: this.#claims.ownerOf(address)?.pool.endsWith(' global') === true };
  }

  /** Services in the order of their names; each is worked out when it is asked for. */
  *views(wanted?: string): Iterable<ServiceView> {
    const names = wanted === undefined ? [...this.#groups.keys()].sort() : [wanted];
    for (const name of names) for (const pool of this.#groups.get(name)?.pools ?? []) yield this.#view(name, pool);
  }

  /**
   * What the name of a service leads to, at a cost that does not grow with its backends. `name` is `<namespace>/<name>`;
   * `isHeld`: whether the data path has a frontend.
   */
  named(name: string, isHeld: (key: FrontendKey) => boolean = () => true): NamedService[] {
    const local = this.#settings.local ?? this.#joined;
    return (this.#groups.get(name)?.pools ?? []).map((pool) => {
      const id = poolName(name, pool);
      const isInForce = (address: string, port: ServicePort): boolean => {
        const key: FrontendKey = `${address} ${protocolOf(port)} ${port.port}`;
        return this.#claims.ownerOf(address)?.pool === id && this.#frontends.get(key)?.group === name && isHeld(key);
      };
      return {
        kind: pool.kind,
        frontends: namedFrontends(pool, local, isInForce),
        headless: this.#headless.get(id),
      };
    });
  }

  /** Whether a namespace has a service of that kind. */
  hasNamespace(namespace: string, kind: Pool['kind']): boolean {
    return this.#namespaces.has(`${kind} ${namespace}`);
  }

  /** How many backends each service has, by state. */
  tallies(): Iterable<Tally> {
    return this.#tallies.values();
  }

  /** Names of the groups that have a problem, with it. */
  get problems(): ReadonlyMap<string, readonly string[]> {
    return this.#problems;
  }

  get contested(): ReturnType<Claims['contested']> {
    return this.#claims.contested(3);
  }

  #view(name: string, pool: Pool): ServiceView {
    const resolved = resolvePool(pool, this.#contextOf(poolName(name, pool)));
    const [namespace = '', short = ''] = name.split('/', 2);
    return {
      namespace,
      name: short,
      global: pool.kind === 'global',
      affinity: resolved.affinity,
      clusters: pool.members.map(({ cluster }) => cluster),
      frontends: resolved.frontends,
      backends: resolved.backends.map((backend) => ({
        ...backend,
        since: this.#since.of(poolName(name, pool), backend) ?? this.#now(),
      })),
      problems: resolved.problems,
    };
  }

  #touchAll(): void {
    for (const name of this.#groups.keys()) this.#unclaimed.add(name);
  }

  #claim(name: string): void {
    const group = this.#groups.get(name);
    if (group === undefined) return;
    this.#setPools(name, group, poolsOf(group.services.values(), this.#joined));
    for (const kind of ['own', 'global'] as const) {
      const pool = group.pools.find((each) => each.kind === kind);
      const moved = this.#claims.set(`${name} ${kind}`, pool === undefined ? new Map() : this.#claimsOf(pool));
      for (const other of moved) this.#unresolved.add(groupOf(other));
    }
    this.#unresolved.add(name);
  }

  #setPools(name: string, group: Group, pools: readonly Pool[]): void {
    const namespace = name.slice(0, name.indexOf('/'));
    const count = ({ kind }: Pool, more: 1 | -1): void => {
      const key = `${kind} ${namespace}`;
      const now = (this.#namespaces.get(key) ?? 0) + more;
      if (now === 0) this.#namespaces.delete(key);
      else this.#namespaces.set(key, now);
    };
    for (const pool of group.pools) count(pool, -1);
    for (const pool of pools) count(pool, 1);
    group.pools = pools;
  }

  #claimsOf(pool: Pool): Map<string, string> {
    const claims = new Map<string, string>();
    for (const service of pool.members) {
      for (const address of service.frontends.keys())
        if (!claims.has(address) && this.#addressRefusal(address, service) === undefined)
          claims.set(address, service.cluster);
    }
    return claims;
  }

  #addressRefusal(text: string, { cluster }: ServiceFact): string | undefined {
    const address = parseAddress(text);
    if (address === undefined) return 'is no address';
    return this.#facts.frontendRefusal(address, { cluster, joined: cluster === this.#joined });
  }

  #resolve(name: string): void {
    const group = this.#groups.get(name);
    if (group === undefined) return;
    const inForce = new Map<FrontendKey, ServiceFrontend>();
    const problems: string[] = [];
    const pools = new Map<string, Resolved>();
    for (const pool of group.pools) {
      const resolved = resolvePool(pool, this.#contextOf(poolName(name, pool)));
      for (const [key, frontend] of resolved.inForce) inForce.set(key, frontend);
      problems.push(...resolved.problems, ...refusals(resolved));
      pools.set(poolName(name, pool), resolved);
    }
    for (const kind of ['own', 'global'] as const) {
      const id = `${name} ${kind}`;
      const resolved = pools.get(id);
      this.#since.note(id, resolved?.backends ?? [], this.#now());
      if (resolved === undefined) this.#tallies.delete(id);
      else this.#tallies.set(id, tallyOf(name, kind, resolved));
      if (resolved?.headless === undefined) this.#headless.delete(id);
      else this.#headless.set(id, resolved.headless);
      if (this.#checks.set(id, resolved?.plan)) this.#unresolved.add(name);
    }
    this.#put(name, group, inForce);
    if (problems.length === 0) this.#problems.delete(name);
    else this.#problems.set(name, problems);
    if (group.services.size === 0) this.#groups.delete(name);
  }

  #put(name: string, group: Group, inForce: ReadonlyMap<FrontendKey, ServiceFrontend>): void {
    for (const key of group.keys) {
      // It may be another's by now.
      if (inForce.has(key) || this.#frontends.get(key)?.group !== name) continue;
      this.#frontends.delete(key);
      this.#changed.add(key);
    }
    for (const [key, frontend] of inForce) {
      const before = this.#frontends.get(key);
      this.#frontends.set(key, { group: name, frontend });
      if (before === undefined || !sameFrontend(before.frontend, frontend)) this.#changed.add(key);
    }
    group.keys = [...inForce.keys()];
  }

  #contextOf(pool: string): ResolveContext {
    return {
      failure: (place) => this.#checks.failure(pool, place),
      settings: this.#settings,
      joined: this.#joined,
      facts: this.#facts,
      cluster: (name) => this.#clusters.get(name) ?? PRESENT,
      frontendRefusal: (address, service) => {
        const refusal = this.#addressRefusal(address, service);
        const owner = this.#claims.ownerOf(address);
        if (refusal !== undefined || owner === undefined || owner.pool === pool) return refusal;
        return `is a frontend of ${groupOf(owner.pool)} of ${owner.cluster}`;
      },
    };
  }

  *#addressesOf(service: ServiceFact | undefined): Iterable<string> {
    if (service === undefined) return;
    yield* service.frontends.keys();
    for (const [address] of consideredOf(service.backends, this.#settings.machine)) yield address;
  }

  #index(address: string, name: string): void {
    const found = this.#byAddress.get(address);
    if (found === undefined || found === name) this.#byAddress.set(address, name);
    else if (typeof found === 'string') this.#byAddress.set(address, new Set([found, name]));
    else found.add(name);
  }

  #unindex(address: string, name: string): void {
    const found = this.#byAddress.get(address);
    if (found === name) this.#byAddress.delete(address);
    else if (typeof found === 'object' && found.delete(name) && found.size === 0) this.#byAddress.delete(address);
  }
}

const poolName = (name: string, { kind }: Pool): string => `${name} ${kind}`;
/** Names come from stores and may hold anything; the kind behind them does not. */
const groupOf = (pool: string): string => pool.slice(0, pool.lastIndexOf(' '));

/** What was refused, in a few words: whoever wants to know it all asks for the view. */
function refusals({ frontends, backends }: Resolved): string[] {
  const found: string[] = [];
  const [frontend] = frontends.filter(({ refused }) => refused !== undefined);
  if (frontend !== undefined) found.push(`frontend ${frontend.address} of ${frontend.cluster} ${frontend.refused}`);
  const refused = backends.filter(({ state }) => state === 'refused');
  const [first] = refused;
  if (first !== undefined) {
    const more = refused.length > 1 ? ` (and ${refused.length - 1} more)` : '';
    found.push(`backend ${first.address} of ${first.cluster} ${first.reason}${more}`);
  }
  return found;
}
