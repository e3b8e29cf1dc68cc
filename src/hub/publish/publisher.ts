import { MeshError, messageOf } from '../../core/errors.ts';
import type { MaxClusters } from '../../core/identity.ts';
import { JobGroup, sleep } from '../../core/job.ts';
import { goJson } from '../../kvstore/codec/json.ts';
import { decodeNode, type Node } from '../../kvstore/codec/node.ts';
import type { LeasedKeys } from '../../kvstore/leased-keys.ts';
import {
  CLUSTER_CONFIG_PREFIX,
  canaryName,
  canaryPrefix,
  FACT_KINDS,
  factPrefix,
  HEARTBEAT_KEY,
} from '../../kvstore/paths.ts';
import type { OwnedKey } from '../../kvstore/store.ts';
import type { Leadership } from '../election.ts';
import type { HubStore } from '../hub-store.ts';
import type { MachineFacts } from './machine-facts.ts';

export interface PublisherOptions {
  readonly store: HubStore;
  readonly leader: Pick<Leadership, 'conditions' | 'resign'>;
  readonly cluster: { readonly name: string; readonly id: number };
  readonly max: MaxClusters;
  readonly onProblem: (message: string) => void;
  readonly heartbeatMs?: number;
}

const HEARTBEAT_MS = 60_000;
const ENFORCE_MS = 5 * 60_000;
const CONFIG_MS = 15_000;
/** etcd refuses requests of 1.5 MiB; a transaction has other keys in it, too. */
const MAX_VALUE_BYTES = 1 << 20;

/** What the store showed of our cluster when the term began. */
export interface Published {
  readonly nodes: ReadonlyMap<string, Node>;
  /** Whole keys of nodes and addresses. */
  readonly keys: ReadonlySet<string>;
  /** Somebody said before that it is complete. */
  readonly announced: boolean;
}

/**
 * The cluster of the hub as every peer reads it (kvstore specification 11.2): heartbeat, configuration, then facts, and last of
 * all the canaries, which say that the facts are complete. A peer that lists a store with canaries and without a fact
 * deletes the fact (4.6), so they are written only behind everything else, and taken back when something is missing.
 */
export class Publisher {
  readonly #options: PublisherOptions;
  readonly #keys: LeasedKeys;
  readonly #jobs = new JobGroup((name, error) => this.#options.onProblem(`${name} ended: ${messageOf(error)}`));
  readonly #machines = new Map<string, MachineFacts>();
  readonly #configKey: string;
  readonly #config: string;
  #owned: OwnedKey | undefined;
  #complete = false;

  constructor(options: PublisherOptions) {
    const { store, leader, cluster, max } = options;
    this.#options = options;
    this.#configKey = CLUSTER_CONFIG_PREFIX + cluster.name;
    this.#config = goJson({ id: cluster.id, capabilities: { syncedCanaries: true, maxConnectedClusters: max } });
    this.#keys = store.leasedKeys({
      prefixes: [HEARTBEAT_KEY, this.#nodes, this.#addresses, this.#services, canaryPrefix(cluster.name)],
      guard: () => leader.conditions,
      onRefused: () => leader.resign('another hub leads'),
    });
  }

  get size(): number {
    return this.#machines.size;
  }

  get pending(): number {
    return this.#keys.pending;
  }

  get leases(): number {
    return this.#keys.leases;
  }

  get lastError(): string | undefined {
    return this.#keys.lastError;
  }

  /** Whether the canaries stand. */
  get complete(): boolean {
    return this.#complete;
  }

  /** Heartbeat and configuration, from now on. Resolves when the configuration is in the store. @throws MeshError KVS-TIMEOUT */
  async start(): Promise<void> {
    const { store, heartbeatMs = HEARTBEAT_MS } = this.#options;
    this.#keys.set(HEARTBEAT_KEY, now());
    // Not among the leased keys: a prefix of this key holds other clusters' configurations too.
    this.#owned = store.own(this.#configKey, this.#config);
    this.#jobs.start('heartbeat', async (signal) => {
      while (!signal.aborted) {
        await sleep(heartbeatMs, signal);
        if (!signal.aborted) this.#keys.set(HEARTBEAT_KEY, now());
      }
    });
    this.#jobs.start('cluster configuration', async (signal) => {
      while (!signal.aborted) {
        await sleep(ENFORCE_MS, signal);
        if (!signal.aborted) await this.#enforce().catch((error: unknown) => this.#options.onProblem(messageOf(error)));
      }
    });
    const began = performance.now();
    while (!this.#owned.written && !this.#jobs.signal.aborted) {
      if (performance.now() - began > CONFIG_MS)
        throw new MeshError('KVS-TIMEOUT', this.#owned.lastError ?? 'it was not written', { place: this.#configKey });
      await sleep(10, this.#jobs.signal);
    }
  }

  /** What is there from before. @throws MeshError KVS-* */
  async published(): Promise<Published> {
    const { store, cluster } = this.#options;
    const nodes = new Map<string, Node>();
    const keys = new Set<string>();
    for (const { key, value } of (await store.readPrefix(this.#nodes)).entries) {
      keys.add(this.#nodes + key);
      try {
        nodes.set(key, decodeNode(key, value, { cluster: cluster.name, clusterId: cluster.id }));
      } catch {
        // Nothing of ours: it is swept.
      }
    }
    for (const { key } of (await store.readPrefix(this.#addresses)).entries) keys.add(this.#addresses + key);
    const announced = (await store.readPrefix(canaryPrefix(cluster.name))).entries.length > 0;
    return { nodes, keys, announced };
  }

  /** What a machine has from now on; keys that it had and that are not there any more go. @throws MeshError HUB-REGISTRATION */
  set(name: string, facts: MachineFacts): void {
    for (const [key, value] of facts)
      if (Buffer.byteLength(value) > MAX_VALUE_BYTES)
        throw new MeshError(
          'HUB-REGISTRATION',
          `${key} would have ${value.length} bytes: the store takes ${MAX_VALUE_BYTES}`,
        );
    const before = this.#machines.get(name);
    for (const [key, value] of facts) this.#keys.set(key, value);
    // The new first: a machine that moves is never nowhere.
    for (const key of before?.keys() ?? []) if (!facts.has(key)) this.#keys.remove(key);
    if (facts.size === 0) this.#machines.delete(name);
    else this.#machines.set(name, facts);
  }

  /** A service of ours from now on, by its whole key, or none. */
  setService(key: string, value: string | undefined): void {
    if (value === undefined) this.#keys.remove(key);
    else this.#keys.set(key, value);
  }

  facts(name: string): MachineFacts | undefined {
    return this.#machines.get(name);
  }

  /** Takes the canaries back: something is missing that was there. @throws as `announce` */
  async retract(): Promise<void> {
    this.#complete = false;
    // What was there before is known from then on.
    await this.#keys.settled();
    for (const key of this.#canaries()) this.#keys.remove(key);
    await this.#keys.settled();
  }

  /**
   * Everything that shall be published was set: when the store has it all, the canaries are written, and what else is
   * there goes. @throws MeshError HUB-NOT-LEADER, KVS-LOST when the term is over before
   */
  async announce(): Promise<void> {
    await this.#keys.settled();
    for (const key of this.#canaries()) if (this.#keys.get(key) === undefined) this.#keys.set(key, now());
    this.#keys.sweep();
    await this.#keys.settled();
    this.#complete = true;
  }

  /** Resolves when the store has all that was said so far. @throws as `announce` */
  settled(): Promise<void> {
    return this.#keys.settled();
  }

  /** What is published stays for the time of its leases: the next leader takes it over. */
  async close(): Promise<void> {
    await this.#jobs.stop();
    await this.#owned?.release({ keep: true });
    await this.#keys.close({ keep: true });
  }

  get #nodes(): string {
    return factPrefix('nodes', this.#options.cluster.name, 'direct');
  }

  get #addresses(): string {
    return factPrefix('endpoints', this.#options.cluster.name, 'direct');
  }

  get #services(): string {
    return factPrefix('services', this.#options.cluster.name, 'direct');
  }

  #canaries(): string[] {
    const { name } = this.#options.cluster;
    return FACT_KINDS.map((kind) => canaryPrefix(name) + canaryName(kind, 'direct'));
  }

  async #enforce(): Promise<void> {
    const found = await this.#options.store.get(this.#configKey);
    if (found?.value.toString('utf8') !== this.#config) this.#owned?.update(this.#config);
  }
}

/** RFC 3339 without fractions, as Go writes it. */
function now(): string {
  return new Date().toISOString().replace(/\.\d+Z$/, 'Z');
}
