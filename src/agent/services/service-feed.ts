import type { Config, ServiceCheck } from '../../config/config.ts';
import type { FeedReader } from '../../core/feed.ts';
import { type Address, addressBits, formatAddress, formatIpv4, parsePrefix } from '../../core/ip.ts';
import { tryPort } from '../../host/port-check.ts';
import type { Mesh } from '../../mesh/mesh.ts';
import type { Tables } from '../../mesh/tables.ts';
import { ServiceModel } from '../../service/model.ts';
import type { NamedService } from '../../service/names.ts';
import type { FrontendKey, PlaceKey, ServiceMap } from '../../service/result.ts';
import type { CheckSettings, ServiceSettings } from '../../service/settings.ts';
import type { Machine } from '../machine.ts';
import type { StoreAddress } from '../store-addresses.ts';
import { MachineAddressFacts } from './address-facts.ts';
import { BackendChecks, type Probe } from './backend-checks.ts';
import { ClusterReach } from './reach.ts';
import { serviceFact } from './service-facts.ts';
import { ToldLost } from './told-lost.ts';

export interface ServiceFeedOptions {
  /** What is in force: another one after a reload. */
  readonly config: () => Pick<Config, 'services' | 'name'>;
  /** What the hub says of the affinity of its services; the configuration of this machine goes before it. */
  readonly affinities: () => ReadonlyMap<string, 'none' | 'local' | 'remote'>;
  readonly tables: Tables;
  readonly mesh: Mesh;
  readonly machine: Machine;
  readonly stores: () => readonly StoreAddress[];
  /** Whether the policy of this machine denies a connection to this TCP port; a check that fails tells it. */
  readonly denies: (address: Address, port: number) => boolean;
  /** Something changed, or is left to do; must only schedule. */
  readonly wake: () => void;
}

/** How long facts are worked into the model before others have their turn, milliseconds. */
const SLICE_MS = 15;
const MANY_PREFIXES = 4;

/**
 * Carries changed facts into the model of services and says which frontends changed:
 *
 *   services, addresses, lost clusters ──▶ model ──▶ frontends with their targets
 */
export class ServiceFeed {
  readonly model: ServiceModel;
  readonly #options: ServiceFeedOptions;
  readonly #facts: MachineAddressFacts;
  readonly #reach: ClusterReach;
  readonly #checks: BackendChecks;
  readonly #told = new ToldLost(() => this.look());
  readonly #services: FeedReader<string>;
  readonly #slices: FeedReader<string>;
  #hosts4: FeedReader<number> | undefined;
  #hosts6: FeedReader<string> | undefined;
  readonly #prefixes: FeedReader<string>;
  #lost: ReadonlySet<string> = new Set();
  /** Frontends that the data path has, and those that it is about to get or lose. */
  readonly #held = new Set<FrontendKey>();
  readonly #collected = new Set<FrontendKey>();
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: ServiceFeedOptions) {
    const { config, affinities, tables, mesh, machine, stores, wake } = options;
    this.#options = options;
    this.#facts = new MachineAddressFacts({
      ipcache: tables.ipcache,
      own: () => machine.addresses,
      networks: () => machine.networks,
      gateways: () => machine.gateways,
      stores,
      allowed: () => config().services.frontends,
    });
    this.model = new ServiceModel(this.#facts, Date.now);
    this.model.configure(settingsOf(config(), affinities()));
    this.#checks = new BackendChecks({
      machine: config().name,
      probe: probeBackend,
      onHealth: (pool, place, failure) => this.#checked(pool, place, failure),
    });
    this.#reach = new ClusterReach(mesh, () => config().services.lossGrace * 1000);
    this.#services = tables.services.changed.read(wake);
    this.#slices = tables.serviceSlices.changed.read(wake);
    this.#prefixes = tables.ipcache.changedPrefixes.read(wake);
  }

  /** What the data path is to hold: nothing unless it is wanted. */
  get desired(): ServiceMap | 'off' {
    return this.#options.config().services.enabled ? this.model.frontends : 'off';
  }

  /** Lost clusters, by name. */
  get lost(): ReadonlySet<string> {
    return this.#lost;
  }

  get checks(): BackendChecks['status'] {
    return this.#checks.status;
  }

  /** Works everything that is known into the model, in slices. @returns whether that is done: call it again later if not */
  prepare(): boolean {
    const { tables, wake } = this.#options;
    if (this.#hosts4 === undefined) {
      this.#hosts4 = tables.ipcache.changed4.read(wake);
      this.#hosts6 = tables.ipcache.changed6.read(wake);
      this.model.addressesChanged();
    }
    this.#take();
    return this.model.settle(SLICE_MS);
  }

  collect(): ReadonlySet<FrontendKey> {
    this.#take();
    if (!this.model.settle(SLICE_MS)) setImmediate(this.#options.wake);
    if (!this.#closed) for (const pool of this.model.drainPlans()) this.#checks.set(pool, this.model.planOf(pool));
    const changed = this.model.drainChanges();
    for (const key of changed) this.#collected.add(key);
    return changed;
  }

  /** The data path has what was collected; `balances`: it leads on from there, as far as it is known. */
  applied(balances: boolean): void {
    for (const key of this.#collected) {
      if (!balances || this.model.frontends.get(key) === undefined) this.#held.delete(key);
      else this.#held.add(key);
    }
    this.#collected.clear();
  }

  /**
   * What the name of a service leads to (`<namespace>/<name>`). An address is told when the data path leads on from it: a
   * connection that is opened before would go elsewhere, and never arrive.
   */
  named(name: string): NamedService[] {
    return this.model.named(name, (key) => this.#held.has(key));
  }

  /** Services may be configured differently now. */
  reconfigure(): void {
    this.#facts.allow();
    this.model.configure(settingsOf(this.#options.config(), this.#options.affinities()));
    this.look();
    this.#options.wake();
  }

  /** The machine's addresses, stores, or the state of clusters may have changed. */
  look(): void {
    if (this.#closed) return;
    const { mesh, wake } = this.#options;
    this.model.setJoined(mesh.joined?.name);
    if (this.#facts.refresh()) this.model.addressesChanged();
    const [first] = mesh.list();
    this.#told.follow(first?.cluster.kind === 'joined' ? first.store : undefined);
    const { lost, next } = this.#reach.look(performance.now(), this.#told.clusters);
    for (const { name, since } of lost) this.model.setCluster(name, { lostSince: since });
    const names = new Set(lost.map(({ name }) => name));
    for (const name of this.#lost) if (!names.has(name)) this.model.setCluster(name, { lostSince: undefined });
    this.#lost = names;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (next !== undefined)
      this.#timer = setTimeout(() => this.look(), Math.max(1, next - performance.now() + 1)).unref();
    if (!this.model.settled) wake();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#told.close();
    this.#checks.close();
  }

  /** The check itself goes through the policy of this machine, as all its traffic does. */
  #checked(pool: string, place: PlaceKey, failure: string | undefined): void {
    const target = this.model.planOf(pool)?.targets.get(place);
    const denied = failure !== undefined && target !== undefined && this.#options.denies(target.address, target.port);
    this.model.setHealth(pool, place, denied ? `${failure}: the policy of this machine denies it` : failure);
    if (!this.model.settled) this.#options.wake();
  }

  #take(): void {
    const { tables, mesh } = this.#options;
    this.model.setJoined(mesh.joined?.name);
    for (const key of new Set([...this.#services.drain(), ...this.#slices.drain()])) {
      const at = key.indexOf('/');
      this.model.setService(key.slice(0, at), key.slice(at + 1), serviceFact(tables, key));
    }
    for (const word of this.#hosts4?.drain() ?? []) this.model.addressChanged(formatIpv4(word));
    for (const text of this.#hosts6?.drain() ?? []) this.model.addressChanged(text);
    const prefixes = [...this.#prefixes.drain()].map(parsePrefix).filter((prefix) => prefix !== undefined);
    const wide = prefixes.filter(({ bits, family }) => bits < addressBits(family)).length;
    // Each wide one is a walk through all addresses.
    if (wide > MANY_PREFIXES) this.model.addressesChanged();
    else for (const prefix of prefixes) this.model.prefixChanged(prefix);
  }
}

const probeBackend: Probe = ({ address, port }, { type, path, timeoutMs }, signal) =>
  tryPort({ address: formatAddress(address), port, timeoutMs, signal, ...(type === 'http' && { path }) });

/** One object for all that are equal: a reload that changes something else leaves the checks as they are. */
const known = new Map<string, CheckSettings>();

function checkSettings(check: ServiceCheck | 'none'): CheckSettings | 'none' {
  if (check === 'none') return 'none';
  const { type, path, port, interval, timeout, rise, fall } = check;
  const made = { type, path, port, intervalMs: interval * 1000, timeoutMs: timeout * 1000, rise, fall };
  const text = JSON.stringify(made);
  const same = known.get(text) ?? made;
  known.set(text, same);
  return same;
}

function settingsOf(
  { services, name }: Pick<Config, 'services' | 'name'>,
  affinities: ServiceSettings['affinity'],
): ServiceSettings {
  const affinity = Object.entries(services.affinity).map(
    ([service, value]) => [service, value === 'default' ? 'none' : value] as const,
  );
  const checks: Config['services']['checks'] = services.enabled ? services.checks : {};
  return {
    affinity: new Map([...affinities, ...affinity]),
    local: services.local,
    onClusterLoss: services.onClusterLoss,
    sticky: new Set(services.sticky),
    weights: new Map(Object.entries(services.weights)),
    checks: new Map(Object.entries(checks).map(([service, check]) => [service, checkSettings(check)])),
    defaultCheck: checkSettings(checks.default ?? 'none'),
    machine: name,
  };
}
