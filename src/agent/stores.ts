import type { Health } from '../api/health.ts';
import type { Config } from '../config/config.ts';
import { DEFAULT_FILE } from '../config/load.ts';
import type { JobGroup } from '../core/job.ts';
import type { StoreEvent } from '../kvstore/session.ts';
import type { Store } from '../kvstore/store.ts';
import type { Mesh } from '../mesh/mesh.ts';
import type { Registered } from '../mesh/registration.ts';
import type { Tables } from '../mesh/tables.ts';
import type { Log } from '../observe/log.ts';
import { ClusterDirectory } from './cluster-directory.ts';
import { joinFiles } from './join/files.ts';
import { Renewal } from './join/renewal.ts';
import type { Machine } from './machine.ts';
import { Membership } from './membership.ts';
import type { PolicyFeed } from './policy-feed.ts';
import type { Serving } from './serving/serving.ts';
import type { StoreAddresses } from './store-addresses.ts';

export interface StoresOptions {
  readonly config: Config;
  /** Kept: where the stores are reached. */
  readonly addresses: StoreAddresses;
  readonly machine: Machine;
  readonly tables: Tables;
  readonly mesh: Mesh;
  readonly policies: PolicyFeed;
  readonly serving: Serving;
  readonly health: Health;
  readonly log: Log;
  /** A store is in another state; must only schedule. */
  readonly onChange: () => void;
  readonly onRegistered: (registered: Registered) => void;
}

/**
 * Every store that this machine has a connection of its own to: that of the joined cluster, those of remote clusters by
 * file, and the hub that renews the certificate. What happens to them is told here, and the addresses that they are reached
 * at are kept.
 */
export class Stores {
  readonly membership: Membership;
  readonly renewal: Renewal;
  readonly #options: StoresOptions;
  readonly #clusters: ClusterDirectory;
  #clustersRead = false;

  constructor(options: StoresOptions) {
    const { config, mesh, health, log, onChange } = options;
    this.#options = options;
    this.renewal = new Renewal({
      files: joinFiles(config.stateDir, DEFAULT_FILE),
      health,
      log: log.child('certificate'),
      onChange: () => this.#endpointsChanged(),
    });
    this.#clusters = new ClusterDirectory({
      path: config.clustermesh,
      mesh,
      health,
      events: (cluster, store, event) => this.#event(cluster, store, event),
      onChange: () => this.#endpointsChanged(),
    });
    this.membership = new Membership({
      config,
      machine: options.machine,
      tables: options.tables,
      mesh,
      policies: options.policies,
      serving: options.serving,
      reporting: () => this.renewal.hubs.length > 0,
      events: (store, event) => this.#event('', store, event),
      onChange,
      onRegistered: (registered) => {
        this.#clusters.joined(registered.cluster.name);
        options.onRegistered(registered);
      },
    });
  }

  /** The files of remote clusters were read once. */
  get clustersRead(): boolean {
    return this.#clustersRead;
  }

  start(jobs: JobGroup): void {
    jobs.start('store addresses', (signal) => this.#options.addresses.run(signal));
    jobs.start('certificate', (signal) => this.renewal.run(signal));
    void this.#clusters.first.then(() => {
      this.#clustersRead = true;
      this.#options.onChange();
    });
    const register = this.membership.open();
    if (register !== undefined) jobs.start('registration', register);
    this.#endpointsChanged();
  }

  /** Devices, addresses or routes of the machine are others: what hangs may work now. */
  networkChanged(): void {
    for (const store of [this.membership.store, ...this.#clusters.stores]) store?.networkChanged();
  }

  async close(): Promise<void> {
    await Promise.all([this.membership.close(), this.#clusters.close()]);
  }

  #event(cluster: string, store: Store, event: StoreEvent): void {
    const log = this.#options.log.child('kvstore', cluster === '' ? {} : { cluster });
    if (event.kind === 'data-lost') {
      // Synchronously, before anything of the new data set is listed.
      this.#options.mesh.dataLost(store);
      if (cluster === '') this.membership.dataLost();
    }
    const facts = event.error === undefined ? {} : { error: event.error };
    if (event.kind === 'connected') log.info(event.message);
    else if (event.kind === 'failed') log.debug(event.message, facts);
    else log.warn(event.message, facts);
    this.#endpointsChanged();
    this.#options.onChange();
  }

  #endpointsChanged(): void {
    const own = this.membership.store?.status.endpoints ?? this.#options.config.kvstore.endpoints;
    void this.#options.addresses.set([...own, ...this.#clusters.endpoints, ...this.renewal.hubs]);
  }
}
