import { Health, logTrouble } from '../api/health.ts';
import type { Config } from '../config/config.ts';
import type { KeyName } from '../config/keys.ts';
import { DEFAULT_FILE } from '../config/load.ts';
import { Backoff } from '../core/backoff.ts';
import { MeshError, messageOf } from '../core/errors.ts';
import type { Address } from '../core/ip.ts';
import { JobGroup, sleep } from '../core/job.ts';
import type { Datapath } from '../datapath/datapath.ts';
import type { DesiredChanges } from '../datapath/desired.ts';
import { collectGarbage } from '../host/memory.ts';
import type { StoreEvent } from '../kvstore/session.ts';
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
import { ClusterDirectory } from './cluster-directory.ts';
import { DesiredFromFacts } from './desired-state.ts';
import { ServiceNames } from './dns/service-names.ts';
import { Doctor } from './doctor/doctor.ts';
import { joinFiles } from './join/files.ts';
import { Renewal } from './join/renewal.ts';
import { LastGood } from './last-good/last-good.ts';
import { Machine, type MachineChange } from './machine.ts';
import { Membership } from './membership.ts';
import { ModelFeed } from './model-feed.ts';
import { FlowFeed } from './monitor/flow-feed.ts';
import { NameFeed } from './name-feed.ts';
import { chooseDatapath } from './open-datapath.ts';
import { PolicyFeed } from './policy-feed.ts';
import type { NodeHealth } from './probes/node-health.ts';
import { answeringAddresses, openNodeHealth } from './probes/open.ts';
import { Readiness } from './readiness.ts';
import { Reconciler } from './reconciler.ts';
import { refusalLog } from './refusals.ts';
import { deniesTcp } from './services/egress.ts';
import { ServiceFeed } from './services/service-feed.ts';
import { Serving } from './serving/serving.ts';
import { StoreAddresses } from './store-addresses.ts';
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
const SETTLE_MS = [1_000, 10_000];

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
  readonly datapath: Datapath;
  readonly reconciler: Reconciler;
  readonly readiness: Readiness;
  readonly storeAddresses: StoreAddresses;
  readonly apiPolicies: ApiPolicies;
  readonly names: NameFeed;
  readonly renewal: Renewal;
  readonly lastGood: LastGood;
  readonly services: ServiceFeed;
  readonly serving: Serving;
  /** Undefined when probes are off. */
  readonly nodeHealth: NodeHealth | undefined;
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
  readonly #clusters: ClusterDirectory;
  readonly #troubles: Troubles;
  readonly #membership: Membership;
  #clustersRead = false;
  #datapathOpen = false;
  #settled = false;
  #report = { added: 0, removed: 0, tookMs: 0, cut: 0 };
  #tick: NodeJS.Timeout | undefined;
  #closed = false;

  /** Throws AGT-DATAPATH. */
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
      registered: () => this.#membership.registered,
      stores: () => this.storeAddresses.list(),
      watchNames: () => this.model.wantsNames,
      watchAllowed: () => this.flows?.watchesAllowed === true,
      services: () => this.services.desired,
    });
    this.serving = new Serving({
      stateDir: config.stateDir,
      machine: this.machine,
      health: this.health,
      onReport: () => this.#membership.servingChanged(),
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
    this.datapath = chooseDatapath(config, log.child('datapath'));
    this.reconciler = new Reconciler({
      collect: () => ({ ...this.#feed.collect(), services: this.services.collect() }),
      apply: (changes) => this.#apply(changes),
      onApplied: (_tookMs, delayMs) => this.#applied(delayMs),
      onFailed: (error, attempt) => {
        options.metrics.applyFailed(error instanceof MeshError ? error.code : 'none');
        // Once, not at every try: `status` shows that it lasts.
        if (attempt === 1) log.warn('a change set was not applied and is tried again', { error });
        else log.debug('a change set was not applied', { error, attempt });
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
      onChange: () => this.reconciler.wake(),
    });
    this.lastGood = new LastGood({
      config: present,
      named: options.named !== false,
      datapath: this.datapath,
      desired: this.desired,
      machine: this.machine,
      mesh: this.mesh,
      registered: () => this.#membership.registered,
      health: this.health,
      log: log.child('last-good'),
      onChange: () => this.#soon(),
    });
    this.flows = new FlowFeed(this, () => this.#feed.touch());
    this.renewal = new Renewal({
      files: joinFiles(config.stateDir, DEFAULT_FILE),
      health: this.health,
      log: log.child('certificate'),
      onChange: () => this.#endpointsChanged(),
    });
    this.#clusters = new ClusterDirectory({
      path: config.clustermesh,
      mesh: this.mesh,
      health: this.health,
      events: (cluster, store, event) => this.#storeEvent(cluster, store, event),
      onChange: () => this.#endpointsChanged(),
    });
    this.#membership = new Membership({
      config,
      machine: this.machine,
      tables: this.tables,
      mesh: this.mesh,
      policies: this.#policies,
      serving: this.serving,
      reporting: () => this.renewal.hubs.length > 0,
      events: (store, event) => this.#storeEvent('', store, event),
      onChange: () => this.#soon(),
      onRegistered: (registered) => this.#registered(registered),
    });
    this.nodeHealth = openNodeHealth(this, options.metrics);
    this.readiness = new Readiness({
      registration: () => this.registration,
      mesh: this.mesh,
      policies: this.#policies,
      clustersRead: () => this.#clustersRead,
    });
  }

  /** What is in force. */
  get config(): Config {
    return this.#config;
  }

  get store(): Store | undefined {
    return this.#membership.store;
  }

  get registration(): Registration | undefined {
    return this.#membership.registration;
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
    this.#jobs.start('data path', (signal) => this.#openDatapath(signal));
    this.#jobs.start('reconcile', (signal) => this.reconciler.run(signal));
    this.#jobs.start('clusters', (signal) => this.mesh.run(signal));
    this.#jobs.start('store addresses', (signal) => this.storeAddresses.run(signal));
    this.#jobs.start('certificate', (signal) => this.renewal.run(signal));
    this.#jobs.start('names of services', (signal) => this.dns.run(signal));
    this.#jobs.start('conditions', (signal) => this.#idle(signal));
    const { nodeHealth } = this;
    if (nodeHealth !== undefined) this.#jobs.start('probes', (signal) => nodeHealth.run(signal));
    nodeHealth?.answerOn(answeringAddresses(this));
    this.#jobs.start('doctor', (signal) => this.doctor.run(signal));
    void this.#clusters.first.then(() => {
      this.#clustersRead = true;
      this.#soon();
    });
    const register = this.#membership.open();
    if (register !== undefined) this.#jobs.start('registration', register);
    this.#endpointsChanged();
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
    const labels = this.#membership.registered?.labels;
    if (labels !== undefined) this.model.setSubject(labels, config.namedPorts);
    if (any('devices') || any('address.')) this.machine.reconfigure();
    if (any('services.')) this.services.reconfigure();
    if (changed.has('policies')) this.#policies.moveTo(config.policies);
    // Also while the snapshot is what is in force.
    if (changed.has('enforcement')) this.lastGood.drifted();
    if (changed.has('services.enabled')) this.reconciler.add({ everything: true });
    this.#feed.touch();
    this.#soon();
  }

  /** Resolves when the kernel holds what is desired, or after so many milliseconds. */
  async settled(timeoutMs: number): Promise<void> {
    const end = performance.now() + timeoutMs;
    const busy = (): boolean => this.#policies.moving || (this.reconciler.opened && this.reconciler.busy);
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
    this.nodeHealth?.close();
    this.services.close();
    this.flows.close();
    this.#policies.close();
    this.mesh.close();
    await Promise.all([
      this.#membership.close(),
      this.#clusters.close(),
      this.names.close(),
      this.serving.close(),
      this.#jobs.stop(),
    ]);
    await this.datapath.close();
  }

  async #openDatapath(signal: AbortSignal): Promise<void> {
    const backoff = new Backoff({ minMs: 500, maxMs: 30_000 });
    this.datapath.onDrift((what) => {
      this.#log.warn('what is ours in the kernel was changed: restoring', { what });
      this.lastGood.drifted();
      this.doctor.drifted(what);
      this.reconciler.add({ everything: true });
    });
    while (!signal.aborted) {
      try {
        await this.datapath.open();
        this.#datapathOpen = true;
        this.#begun('datapath');
        this.health.settle('datapath/open', '', undefined);
        this.#jobs.start('last good', (until) => this.lastGood.hold(until));
        this.#soon();
        return;
      } catch (error) {
        const code = error instanceof MeshError ? error.code : 'DPN-RULES';
        this.health.settle('datapath/open', '', { code, text: messageOf(error) });
        await sleep(backoff.next(), signal);
      }
    }
  }

  async #apply(changes: DesiredChanges): Promise<void> {
    this.#report = await this.datapath.apply(this.desired, changes);
  }

  #applied(delayMs: number): void {
    if (!this.#settled) {
      this.#settled = true;
      this.#jobs.start('settle', (signal) => settle(signal));
    }
    this.services.applied(this.datapath.status.balances !== false);
    this.lastGood.applied(this.#report.added + this.#report.removed > 0);
    this.#options.metrics.applied({ ...this.#report, delayMs });
    const { added, removed, tookMs, cut } = this.#report;
    if (added + removed + cut > 0)
      this.#log.debug('kernel changed', { added, removed, cut, tookMs: Math.round(tookMs) });
    this.#soon();
  }

  #storeEvent(cluster: string, store: Store, event: StoreEvent): void {
    const log = this.#log.child('kvstore', cluster === '' ? {} : { cluster });
    if (event.kind === 'data-lost') {
      // Synchronously, before anything of the new data set is listed.
      this.mesh.dataLost(store);
      if (cluster === '') this.#membership.dataLost();
    }
    const facts = event.error === undefined ? {} : { error: event.error };
    if (event.kind === 'connected') log.info(event.message);
    else if (event.kind === 'failed') log.debug(event.message, facts);
    else log.warn(event.message, facts);
    this.#endpointsChanged();
    this.#soon();
  }

  #machineChanged({ own, network }: MachineChange): void {
    if (own) {
      this.model.configure(this.policySettings());
      this.#membership.addressesChanged();
      this.serving.addressesChanged();
      this.nodeHealth?.answerOn(answeringAddresses(this));
    }
    if (network) for (const store of [this.store, ...this.#clusters.stores]) store?.networkChanged();
    this.#feed.touch();
    this.#soon();
  }

  #endpointsChanged(): void {
    const own = this.store?.status.endpoints ?? this.config.kvstore.endpoints;
    void this.storeAddresses.set([...own, ...this.#clusters.endpoints, ...this.renewal.hubs]);
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
    this.#membership.follow(this.reconciler.opened);
    this.services.look();
    const ready = !this.reconciler.opened && this.#datapathOpen && this.readiness.missing().length === 0;
    if (ready) {
      if (this.services.prepare()) this.#open();
      else this.#soon();
    }
    this.flows.look();
    this.names.want(this.model.wantsNames, this.datapath.status.tellsNames !== false);
    if (this.enforcing && this.reconciler.lagMs === 0) this.#membership.applied();
  }

  #registered({ cluster, labels }: Registered): void {
    this.#clusters.joined(cluster.name);
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
      clusterName: this.#membership?.registered?.cluster.name ?? cluster?.name ?? '',
      dualStack: this.machine.dualStack,
      enforcement,
      // A machine has no pods on a host beside it: Cilium outside of Kubernetes means the policy as well.
      allowLocalhost: allowLocalhost === 'always' ? 'always' : 'policy',
      defaultLocalCluster: policyDefaultLocalCluster,
    };
  }
}

/** The start is over: what it needed is given back, once the first changes that follow have passed. */
async function settle(signal: AbortSignal): Promise<void> {
  for (const wait of SETTLE_MS) {
    await sleep(wait, signal);
    if (!signal.aborted) await collectGarbage();
  }
}
