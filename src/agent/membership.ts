import type { Config } from '../config/config.ts';
import { build } from '../host/build.ts';
import { bootId } from '../host/process-name.ts';
import { POLICY_ANNOTATION, VERSION_ANNOTATION } from '../kvstore/codec/register-node.ts';
import { reportAnnotations } from '../kvstore/codec/serving-report.ts';
import type { StoreEvent } from '../kvstore/session.ts';
import type { Store } from '../kvstore/store.ts';
import type { Mesh } from '../mesh/mesh.ts';
import { type Registered, Registration } from '../mesh/registration.ts';
import type { Tables } from '../mesh/tables.ts';
import { openJoinedStore } from './joined-store.ts';
import type { Machine } from './machine.ts';
import { claimOwnAddresses, registeredAddresses } from './own-addresses.ts';
import type { PolicyFeed } from './policy-feed.ts';
import type { Serving } from './serving/serving.ts';

export interface MembershipOptions {
  readonly config: Pick<Config, 'kvstore' | 'name' | 'cluster'>;
  readonly machine: Machine;
  readonly tables: Tables;
  readonly mesh: Mesh;
  readonly policies: PolicyFeed;
  readonly serving: Serving;
  readonly events: (store: Store, event: StoreEvent) => void;
  /** The cluster is a hub of ours, which wants to know what its machines run and apply. */
  readonly reporting: () => boolean;
  /** The store or the registration are in another state; must only schedule. */
  readonly onChange: () => void;
  /** The cluster's answer, or the addresses of the machine in it, are others than at the last look. */
  readonly onRegistered: (registered: Registered) => void;
}

const REPORT_MS = 3_000;
/** What decides whether this machine gets connections is told at once, but not for each of many results. */
const SERVING_MS = 250;

/** The cluster that this machine joins: its store, the registration there, and what follows from the answer. */
export class Membership {
  readonly #options: MembershipOptions;
  #store: Store | undefined;
  #registration: Registration | undefined;
  /** The answer that was followed last, as text. */
  #followed = '';
  /** Cluster that our own addresses are claimed for. */
  #claimedFor: string | undefined;
  #report: ReadonlyMap<string, string> = new Map();
  #reportedAt = Number.NEGATIVE_INFINITY;
  #serving: NodeJS.Timeout | undefined;

  constructor(options: MembershipOptions) {
    this.#options = options;
  }

  /** Undefined while none is opened, or none is configured. */
  get store(): Store | undefined {
    return this.#store;
  }

  get registration(): Registration | undefined {
    return this.#registration;
  }

  get registered(): Registered | undefined {
    return this.#registration?.registered;
  }

  /** Opens the store and begins to register; the answer is the work that keeps at it. Undefined without a store. */
  open(): ((signal: AbortSignal) => Promise<void>) | undefined {
    const { config, machine, events, onChange } = this.#options;
    const store = openJoinedStore(config.kvstore, events);
    if (store === undefined) return undefined;
    this.#store = store;
    store.onStatus(onChange);
    const registration = new Registration({
      store,
      name: config.name,
      expected: config.cluster,
      bootId: bootIdOrNone(),
      addresses: (registered) => registeredAddresses(machine, registered),
      report: () => new Map([...this.#report, ...reportAnnotations(this.#options.serving.report)]),
      onChange,
    });
    this.#registration = registration;
    return (signal) => registration.run(signal);
  }

  /** Does what follows from a new answer. `enforcing`: policies of the store were seen before. */
  follow(enforcing: boolean): void {
    const { mesh, policies, serving, reporting, onRegistered } = this.#options;
    const { registered } = this;
    const store = this.#store;
    if (registered === undefined || store === undefined) return;
    const text = JSON.stringify(registered);
    if (text !== this.#followed) {
      this.#followed = text;
      mesh.join(store, registered.cluster);
      this.#claim(registered);
      onRegistered(registered);
    }
    if (reporting()) serving.follow(store, registered);
    // After a loss of data the store's policies are believed again when the cluster's canaries are back.
    if (!enforcing || mesh.joined?.synced === true) policies.follow(store);
  }

  /** What was seen so far is in the kernel: told to the hub, but not for each of many changes. */
  applied(): void {
    if (!this.#options.reporting() || performance.now() - this.#reportedAt < REPORT_MS) return;
    const report = new Map([
      [VERSION_ANNOTATION, build.version],
      [POLICY_ANNOTATION, this.#options.policies.storeRevision],
    ]);
    if (JSON.stringify([...report]) === JSON.stringify([...this.#report])) return;
    this.#report = report;
    this.#reportedAt = performance.now();
    this.#registration?.reportChanged();
  }

  /** What this machine serves, or whether it is to, is other than before. */
  servingChanged(): void {
    if (!this.#options.reporting()) return;
    this.#serving ??= setTimeout(() => {
      this.#serving = undefined;
      // Before it is promised.
      this.#registration?.renewEvery(this.#options.serving.report.beat);
      this.#registration?.reportChanged();
    }, SERVING_MS).unref();
  }

  addressesChanged(): void {
    const { registered } = this;
    this.#registration?.addressesChanged();
    if (registered !== undefined && this.#followed !== '') this.#claim(registered);
  }

  /** The store has another data set. */
  dataLost(): void {
    this.#options.policies.dataLost();
    this.#registration?.dataLost();
  }

  /** The registration stays, for as long as its lease lives. */
  async close(): Promise<void> {
    clearTimeout(this.#serving);
    // Together: a write to a store that hangs ends with the connection.
    await Promise.all([this.#registration?.close({ leave: false }), this.#store?.close()]);
  }

  #claim(registered: Registered): void {
    const { tables, machine } = this.#options;
    claimOwnAddresses(tables, machine, { registered, former: this.#claimedFor });
    this.#claimedFor = registered.cluster.name;
  }
}

function bootIdOrNone(): string {
  try {
    return bootId();
  } catch {
    return '';
  }
}
