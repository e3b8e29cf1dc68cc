import { Health, logTrouble } from '../api/health.ts';
import type { Config } from '../config/config.ts';
import type { KeyName } from '../config/keys.ts';
import { MeshError, messageOf } from '../core/errors.ts';
import type { Address } from '../core/ip.ts';
import { JobGroup, sleep } from '../core/job.ts';
import type { Datapath } from '../datapath/datapath.ts';
import type { Store } from '../kvstore/store.ts';
import { Mesh } from '../mesh/mesh.ts';
import type { Registered, Registration } from '../mesh/registration.ts';
import { Tables } from '../mesh/tables.ts';
import type { Log } from '../observe/log.ts';
import type { Metrics } from '../observe/metrics.ts';
import { PolicyModel } from '../policy/model.ts';
import { PolicyRepository } from '../policy/repository.ts';
import type { PolicySettings } from '../policy/settings.ts';
import { ApiPolicies } from './api-policies.ts';
import { DesiredFromFacts } from './desired-state.ts';
import { ServiceNames } from './dns/service-names.ts';
import { Doctor } from './doctor/doctor.ts';
import { Enforcement } from './enforcement.ts';
import type { Renewal } from './join/renewal.ts';
import { LastGood } from './last-good/last-good.ts';
import { livePeers } from './live-connections.ts';
import { Machine, type MachineChange } from './machine.ts';
import { ModelFeed } from './model-feed.ts';
import { FlowFeed } from './monitor/flow-feed.ts';
import { NameFeed } from './name-feed.ts';
import { chooseDatapath } from './open-datapath.ts';
import { PolicyFeed } from './policy-feed.ts';
import type { NodeHealth } from './probes/node-health.ts';
import { Probes } from './probes/probes.ts';
import { Readiness } from './readiness.ts';
import type { Reconciler } from './reconciler.ts';
import { refusalLog } from './refusals.ts';
import { deniesTcp } from './services/egress.ts';
import { ServiceFeed } from './services/service-feed.ts';
import { Serving } from './serving/serving.ts';
import { StoreAddresses } from './store-addresses.ts';
import { Stores } from './stores.ts';
import { Troubles } from './troubles.ts';

export interface AgentOptions {
  readonly config: Config;
  /** The name is configured, and not just that of the host (default: it is). */
  readonly named?: boolean;
  readonly log: Log;
  readonly metrics: Metrics;
  /** The state that people see may have changed. */
  readonly onChange: () => void;
}

/** How long small events gather before joining and readiness are looked at, milliseconds. */
const TICK_MS = 20;
/** They are looked at from time to time even when nothing happens: some depend on the time. */
const IDLE_TICK_MS = 5_000;

/**
 * The daemon of one machine: every room wired to the next, in the direction that the facts go. It owns no fact itself.
 *
 *   store ─▶ registration ─▶ mesh ─▶ tables ─▶ model feed ─▶ reconciler ─▶ data path
 */
export class Agent {
  readonly startedAt = Date.now();
  readonly health: Health;
  readonly machine: Machine;
  readonly tables: Tables;
  readonly model: PolicyModel;
  readonly repository: PolicyRepository;
  readonly mesh: Mesh;
  readonly desired: DesiredFromFacts;
  readonly readiness: Readiness;
  readonly apiPolicies: ApiPolicies;
  readonly names: NameFeed;
  readonly storeAddresses: StoreAddresses;
  readonly lastGood: LastGood;
  readonly services: ServiceFeed;
  readonly serving: Serving;
  readonly probes: Probes;
  readonly dns: ServiceNames;
  readonly flows: FlowFeed;
  readonly doctor: Doctor;
  readonly #options: AgentOptions;
  /** Parts that follow a reload ask for it, the others keep what it was at the start. */
  #config: Config;
  readonly #log: Log;
  readonly #jobs: JobGroup;
  readonly #feed: ModelFeed;
  readonly #policies: PolicyFeed;
  readonly #stores: Stores;
  readonly #enforcement: Enforcement;
  readonly #troubles: Troubles;
  #tick: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: AgentOptions) {
    const { config, log } = options;
    this.#options = options;
    this.#config = config;
    const present = (): Config => this.#config;
    this.#log = log;
    this.health = new Health((record, change) => {
      logTrouble(log, record, change);
      this.#troubles.soon();
    });
    this.#troubles = new Troubles(this, options.onChange);
    this.doctor = new Doctor(this);
    // A job that ends by an error leaves a part undone for ever: better to be started anew.
    this.#jobs = new JobGroup((name, error) => {
      throw new MeshError('AGT-FAILED', `${name}: ${messageOf(error)}`, { cause: error });
    });
    this.tables = new Tables(refusalLog(log));
    this.machine = new Machine({
      config: present,
      health: this.health,
      onChange: (change) => this.#machineChanged(change),
    });
    this.storeAddresses = new StoreAddresses({ onChange: () => this.#feed.touch() });
    this.model = new PolicyModel(this.policySettings());
    this.repository = new PolicyRepository({ model: this.model, now: Date.now });
    this.mesh = new Mesh({ tables: this.tables, onChange: () => this.#soon() });
    this.desired = new DesiredFromFacts({
      config: present,
      tables: this.tables,
      machine: this.machine,
      resolved: () => this.model.resolved,
      registered: () => this.#stores.membership.registered,
      stores: () => this.storeAddresses.list(),
      watchNames: () => this.model.wantsNames,
      watchAllowed: () => this.flows.watchesAllowed,
      services: () => this.services.desired,
    });
    this.serving = new Serving({
      stateDir: config.stateDir,
      machine: this.machine,
      health: this.health,
      onReport: () => this.#stores.membership.servingChanged(),
      onAffinities: () => this.services.reconfigure(),
    });
    this.services = new ServiceFeed({
      config: present,
      affinities: () => this.serving.affinities,
      tables: this.tables,
      mesh: this.mesh,
      machine: this.machine,
      stores: () => this.storeAddresses.list(),
      denies: (address, port) => this.#denies(address, port),
      wake: () => this.reconciler.wake(),
    });
    const { model } = this.services;
    this.dns = new ServiceNames({
      dns: config.dns,
      facts: {
        isReady: () => this.reconciler.opened,
        named: (name) => this.services.named(name),
        hasNamespace: (namespace, kind) => model.hasNamespace(namespace, kind),
      },
      health: this.health,
      log: log.child('dns'),
    });
    this.#enforcement = new Enforcement({
      datapath: chooseDatapath(config, log.child('datapath')),
      jobs: this.#jobs,
      desired: this.desired,
      health: this.health,
      log,
      metrics: options.metrics,
      collect: () => ({ ...this.#feed.collect(), services: this.services.collect() }),
      onOpened: () => {
        this.#begun('datapath');
        this.#jobs.start('last good', (signal) => this.lastGood.hold(signal));
        this.#soon();
      },
      onApplied: (changed) => {
        this.services.applied(this.datapath.status.balances !== false);
        this.lastGood.applied(changed);
        this.#soon();
      },
      onDrift: (what) => {
        this.lastGood.drifted();
        this.doctor.drifted(what);
      },
    });
    this.#feed = new ModelFeed({
      tables: this.tables,
      model: this.model,
      desired: this.desired,
      wake: () => this.reconciler.wake(),
    });
    this.#policies = new PolicyFeed({
      directory: config.policies,
      repository: this.repository,
      health: this.health,
      onChange: () => {
        this.reconciler.wake();
        this.#soon();
      },
    });
    this.apiPolicies = new ApiPolicies({
      stateDir: config.stateDir,
      repository: this.repository,
      health: this.health,
      onChange: () => {
        this.reconciler.wake();
        this.#soon();
      },
    });
    this.names = new NameFeed({
      stateDir: config.stateDir,
      fqdn: () => this.#config.fqdn,
      model: this.model,
      health: this.health,
      log: log.child('names'),
      livePeers: () => livePeers(this.datapath, this.reconciler.opened),
      hear: (onPacket) => this.datapath.hear?.('names', onPacket),
      onChange: () => this.reconciler.wake(),
    });
    this.lastGood = new LastGood({
      config: present,
      named: options.named !== false,
      datapath: this.datapath,
      desired: this.desired,
      machine: this.machine,
      mesh: this.mesh,
      registered: () => this.#stores.membership.registered,
      health: this.health,
      log: log.child('last-good'),
      onChange: () => this.#soon(),
    });
    this.flows = new FlowFeed(this, () => this.#feed.touch());
    this.#stores = new Stores({
      config,
      addresses: this.storeAddresses,
      machine: this.machine,
      tables: this.tables,
      mesh: this.mesh,
      policies: this.#policies,
      serving: this.serving,
      health: this.health,
      log,
      onChange: () => this.#soon(),
      onRegistered: (registered) => this.#registered(registered),
    });
    this.probes = new Probes(this, options.metrics);
    this.readiness = new Readiness({
      registration: () => this.registration,
      mesh: this.mesh,
      policies: this.#policies,
      clustersRead: () => this.#stores.clustersRead,
    });
  }

  /** What is in force. */
  get config(): Config {
    return this.#config;
  }

  /** Undefined when probes are off. */
  get nodeHealth(): NodeHealth | undefined {
    return this.probes.present;
  }

  get datapath(): Datapath {
    return this.#enforcement.datapath;
  }

  get reconciler(): Reconciler {
    return this.#enforcement.reconciler;
  }

  get renewal(): Renewal {
    return this.#stores.renewal;
  }

  get store(): Store | undefined {
    return this.#stores.membership.store;
  }

  get registration(): Registration | undefined {
    return this.#stores.membership.registration;
  }

  /** The DNS names that an address was learnt by. */
  namesOf(address: Address): string[] {
    return this.names.namesOf(address);
  }

  /** Since when facts of the joined cluster are followed and enforced. */
  get enforcing(): boolean {
    return this.reconciler.opened && this.datapath.status.applied;
  }

  /** Throws only when this machine's devices cannot be read. */
  async start(): Promise<void> {
    // Before anything is enforced: what an earlier run has taken and learnt counts from the beginning.
    await Promise.all([
      this.machine.open(),
      this.apiPolicies.load(),
      this.names.restore(),
      this.lastGood.load(),
      this.serving.load(),
    ]);
    this.#enforcement.start();
    this.#jobs.start('clusters', (signal) => this.mesh.run(signal));
    this.#jobs.start('names of services', (signal) => this.dns.run(signal));
    this.#jobs.start('conditions', (signal) => this.#idle(signal));
    this.#jobs.start('probes', (signal) => this.probes.run(signal));
    this.#jobs.start('doctor', (signal) => this.doctor.run(signal));
    this.#stores.start(this.#jobs);
    this.#soon();
  }

  /**
   * Takes a configuration over while everything runs: of another value are only keys that are live, those in `changed`. The
   * kernel goes from the old state to the new one by changes, as it does when facts change.
   */
  reconfigure(config: Config, changed: ReadonlySet<KeyName>): void {
    const any = (prefix: string): boolean => [...changed].some((key) => key.startsWith(prefix));
    this.#config = config;
    this.model.configure(this.policySettings());
    const labels = this.#stores.membership.registered?.labels;
    if (labels !== undefined) this.model.setSubject(labels, config.namedPorts);
    if (any('devices') || any('address.')) this.machine.reconfigure();
    if (any('services.')) this.services.reconfigure();
    if (any('dns.')) this.dns.reconfigure(config.dns);
    if (any('health.')) this.probes.reconfigure();
    if (changed.has('policies')) this.#policies.moveTo(config.policies);
    // Also while the snapshot is what is in force.
    if (changed.has('enforcement')) this.lastGood.drifted();
    if (changed.has('services.enabled')) this.reconciler.add({ everything: true });
    this.#feed.touch();
    this.#soon();
  }

  /** Resolves when the kernel holds what is desired and everything runs as it is configured, or after so many milliseconds. */
  async settled(timeoutMs: number): Promise<void> {
    const end = performance.now() + timeoutMs;
    const busy = (): boolean =>
      this.#policies.moving ||
      this.dns.moving ||
      this.probes.moving ||
      (this.reconciler.opened && this.reconciler.busy);
    while (busy() && performance.now() < end) await sleep(TICK_MS);
  }

  /** Ends everything; the kernel keeps its rules and the store our registration. */
  async stop(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#tick);
    this.#troubles.close();
    // First of all: the facts are still there, and a reboot may follow.
    await this.lastGood.close();
    this.machine.close();
    this.services.close();
    this.flows.close();
    this.#policies.close();
    this.mesh.close();
    await Promise.all([this.#stores.close(), this.names.close(), this.serving.close(), this.#jobs.stop()]);
    await this.datapath.close();
  }

  #machineChanged({ own, network }: MachineChange): void {
    if (own) {
      this.model.configure(this.policySettings());
      this.#stores.membership.addressesChanged();
      this.serving.addressesChanged();
      this.probes.addressesChanged();
    }
    if (network) this.#stores.networkChanged();
    this.#feed.touch();
    this.#soon();
  }

  /** Schedules one look at the slow conditions. */
  #soon(): void {
    if (this.#closed) return;
    this.#tick ??= setTimeout(() => this.#look(), TICK_MS);
    this.#troubles.soon();
  }

  async #idle(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await sleep(IDLE_TICK_MS, signal);
      this.#soon();
    }
  }

  #look(): void {
    this.#tick = undefined;
    if (this.#closed) return;
    this.#stores.membership.follow(this.reconciler.opened);
    this.services.look();
    const ready = !this.reconciler.opened && this.#enforcement.usable && this.readiness.missing().length === 0;
    if (ready) {
      if (this.services.prepare()) this.#open();
      else this.#soon();
    }
    this.flows.look();
    this.names.want(this.model.wantsNames, this.datapath.status.tellsNames !== false);
    if (this.enforcing && this.reconciler.lagMs === 0) this.#stores.membership.applied();
  }

  #registered({ labels }: Registered): void {
    this.model.configure(this.policySettings());
    this.model.setSubject(labels, this.config.namedPorts);
    this.#feed.touch();
  }

  #open(): void {
    this.#log.info('everything was seen once: enforcing from now on', {
      addresses: this.tables.ipcache.size,
      identities: this.tables.identities.size,
      tookMs: Date.now() - this.startedAt,
    });
    this.#begun('overall');
    this.lastGood.live();
    this.#feed.followAddresses();
    this.reconciler.open();
  }

  #denies(address: Address, port: number): boolean {
    const { audit, datapath, failsafe } = this.config;
    if (audit || datapath === 'none') return false;
    const { dualStack } = this.machine;
    const { egress } = this.model.resolved;
    return deniesTcp({ ipcache: this.tables.ipcache, dualStack, egress, failsafe: failsafe.egress }, address, port);
  }

  /** A part of the start is over. */
  #begun(scope: string): void {
    this.#options.metrics.bootstrapped(scope, (Date.now() - this.startedAt) / 1000, 'success');
  }

  policySettings(): PolicySettings {
    const { enforcement, allowLocalhost, policyDefaultLocalCluster, cluster } = this.config;
    return {
      clusterName: this.#stores?.membership.registered?.cluster.name ?? cluster?.name ?? '',
      dualStack: this.machine.dualStack,
      enforcement,
      // A machine has no pods on a host beside it: Cilium outside of Kubernetes means the policy as well.
      allowLocalhost: allowLocalhost === 'always' ? 'always' : 'policy',
      defaultLocalCluster: policyDefaultLocalCluster,
    };
  }
}
