import type { EtcdOptions } from '../../src/kvstore/etcd-config.ts';
import { type SliceFields, sliceValue } from './slice-value.ts';
import { StoreClient } from './store-client.ts';
import {
  addressValue,
  canaryKey,
  configKey,
  configValue,
  factKey,
  HEARTBEAT,
  type Kind,
  kindsOf,
  type Labels,
  type Layout,
  labelString,
  nodeValue,
  now,
  type ServiceFields,
  type SliceMode,
  serviceValue,
} from './values.ts';

export interface StandInOptions {
  readonly name: string;
  readonly id: number;
  /** How the cluster itself reaches its etcd: with rights to write everything. */
  readonly etcd: EtcdOptions;
  /** `cached`: the copy that a KVStoreMesh keeps of this cluster in the etcd of another one. */
  readonly layout?: Layout;
  /** Milliseconds, 0 for none. Cilium's are 60,000; a cached cluster writes none, the etcd's own cluster does. */
  readonly heartbeatMs?: number;
  /** Cilium's is 900. */
  readonly leaseSeconds?: number;
  /** Canaries that are not written. */
  readonly withhold?: readonly Kind[];
  /** In place of the true cluster-config; an empty text writes none. */
  readonly config?: string;
  readonly maxClusters?: 255 | 511;
  /** It writes endpoint slices, as Cilium 1.20 does. */
  readonly slices?: SliceMode;
}

export interface NodeOptions {
  readonly name: string;
  readonly ipv4?: string;
  readonly ipv6?: string;
  readonly range4?: string;
  readonly range6?: string;
  readonly healthIpv4?: string;
  readonly healthIpv6?: string;
  /** Its own address in its range. */
  readonly router?: string;
}

export interface PodOptions {
  readonly name: string;
  readonly namespace: string;
  readonly labels: Labels;
  readonly addresses: readonly string[];
  /** Address of its node, the tunnel endpoint; none for native routing without one. */
  readonly host?: string;
}

/**
 * Behaves as a Cilium 1.16 cluster does that is seen through the etcd of its clustermesh-apiserver: heartbeat,
 * cluster-config, identities, nodes, addresses, services, and then the synced canaries, all under a lease. Facts may be
 * given before `publish`, and changed any time; what is given survives the etcd, as Kubernetes objects do.
 */
export class StandInCluster {
  readonly name: string;
  readonly id: number;
  readonly layout: Layout;
  readonly store: StoreClient;
  readonly #options: StandInOptions;
  readonly #facts: Record<Kind, Map<string, string | Buffer>>;
  readonly #identities = new Map<string, number>();
  readonly #pods = new Map<string, { readonly pod: PodOptions; readonly identity: number }>();
  #withheld: Set<Kind>;
  #lease: bigint | undefined;
  #timers: NodeJS.Timeout[] = [];
  #last: Promise<unknown> = Promise.resolve();

  constructor(options: StandInOptions) {
    this.name = options.name;
    this.id = options.id;
    this.layout = options.layout ?? 'direct';
    this.store = new StoreClient(options.etcd);
    this.#options = options;
    this.#withheld = new Set(options.withhold ?? []);
    this.#facts = {
      nodes: new Map(),
      endpoints: new Map(),
      identities: new Map(),
      services: new Map(),
      slices: new Map(),
    };
  }

  /** The lease that everything of this cluster is under; undefined before `publish`. */
  get lease(): bigint | undefined {
    return this.#lease;
  }

  /** First number of the cluster's identity block. */
  get firstIdentity(): number {
    return this.id * (this.#options.maxClusters === 511 ? 32_768 : 65_536);
  }

  /** Writes everything, in Cilium's order, under a new lease, and keeps it alive. Also after the etcd lost its data. */
  publish(): Promise<void> {
    return this.#inOrder(async () => {
      this.silence();
      const lease = await this.store.grant(this.#options.leaseSeconds ?? 900);
      this.#lease = lease;
      if (this.#heartbeatMs > 0) await this.store.put(HEARTBEAT, now(), lease);
      const config =
        this.#options.config ?? configValue(this.id, this.layout, this.#options.maxClusters, this.#options.slices);
      if (config !== '') await this.store.put(configKey(this.name), config, lease);
      for (const kind of this.#kinds) await this.#putAll(kind, lease);
      for (const kind of this.#kinds) if (!this.#withheld.has(kind)) await this.#putCanary(kind);
      this.#keepAlive();
    });
  }

  /** Ends heartbeats and lease renewals, as if the process hung; what is written stays until the lease runs out. */
  silence(): void {
    for (const timer of this.#timers) clearInterval(timer);
    this.#timers = [];
  }

  /** What the end of the lease does: every key of the cluster vanishes. `publish` brings it back. */
  vanish(): Promise<void> {
    return this.#inOrder(async () => {
      this.silence();
      if (this.#lease !== undefined) await this.store.revoke(this.#lease);
      this.#lease = undefined;
    });
  }

  /** Writes a canary that was withheld. */
  release(kind: Kind): Promise<void> {
    this.#withheld.delete(kind);
    return this.#inOrder(() => this.#putCanary(kind));
  }

  /** The number of a set of labels, allocated in the cluster's block when it is new. */
  async identityOf(labels: Labels): Promise<number> {
    const text = labelString(labels);
    const known = this.#identities.get(text);
    if (known !== undefined) return known;
    const id = this.firstIdentity + 1000 + this.#identities.size;
    this.#identities.set(text, id);
    await this.set('identities', String(id), text);
    return id;
  }

  node(node: NodeOptions): Promise<void> {
    const addresses = [node.ipv4, node.ipv6].flatMap((IP) => (IP === undefined ? [] : [{ Type: 'InternalIP', IP }]));
    if (node.router !== undefined) addresses.push({ Type: 'CiliumInternalIP', IP: node.router });
    const value = nodeValue({ ...node, cluster: this.name, clusterId: this.id, addresses });
    return this.set('nodes', node.name, value);
  }

  /** Makes a pod, or gives it other labels or addresses. Its identity number. */
  async pod(pod: PodOptions): Promise<number> {
    const identity = await this.identityOf(podLabels(this.name, pod));
    const before = this.#pods.get(pod.name)?.pod.addresses ?? [];
    this.#pods.set(pod.name, { pod, identity });
    for (const ip of pod.addresses) {
      const where = pod.host === undefined ? {} : { host: pod.host };
      await this.address({ ip, identity, namespace: pod.namespace, pod: pod.name, ...where });
    }
    for (const ip of before) if (!pod.addresses.includes(ip)) await this.unset('endpoints', ip);
    return identity;
  }

  async removePod(name: string): Promise<void> {
    const addresses = this.#pods.get(name)?.pod.addresses ?? [];
    this.#pods.delete(name);
    for (const ip of addresses) await this.unset('endpoints', ip);
  }

  /** One entry of the ipcache, an address or a prefix. */
  address(fields: Parameters<typeof addressValue>[0]): Promise<void> {
    return this.set('endpoints', fields.ip, addressValue(fields));
  }

  service(service: Omit<ServiceFields, 'cluster' | 'clusterId'>): Promise<void> {
    const value = serviceValue({ ...service, cluster: this.name, clusterId: this.id });
    return this.set('services', `${service.namespace}/${service.name}`, value);
  }

  /** A part of a service's backends; only for a cluster that writes slices. */
  slice(slice: Omit<SliceFields, 'cluster' | 'clusterId'>): Promise<void> {
    const value = sliceValue({ ...slice, cluster: this.name, clusterId: this.id });
    return this.set('slices', `${slice.namespace}/${slice.name}`, value);
  }

  /** Any value under the key of a fact, also one that breaks the rules. */
  async set(kind: Kind, name: string, value: string | Buffer): Promise<void> {
    this.#facts[kind].set(name, value);
    await this.#inOrder(async () => {
      if (this.#lease !== undefined) await this.store.put(this.key(kind, name), value, this.#lease);
    });
  }

  async unset(kind: Kind, name: string): Promise<void> {
    this.#facts[kind].delete(name);
    await this.#inOrder(async () => {
      if (this.#lease !== undefined) await this.store.remove(this.key(kind, name));
    });
  }

  key(kind: Kind, name: string): string {
    return factKey(this.name, this.layout, kind, name);
  }

  /** Leaves what is written to its lease. */
  async close(): Promise<void> {
    this.silence();
    await this.#last.catch(() => {});
    await this.store.close();
  }

  get #kinds(): readonly Kind[] {
    return kindsOf(this.#options.slices);
  }

  get #heartbeatMs(): number {
    return this.#options.heartbeatMs ?? (this.layout === 'cached' ? 0 : 60_000);
  }

  async #putAll(kind: Kind, lease: bigint): Promise<void> {
    const entries = [...this.#facts[kind]].map(([name, value]) => [this.key(kind, name), value] as const);
    for (let at = 0; at < entries.length; at += 128) await this.store.putAll(entries.slice(at, at + 128), lease);
  }

  #putCanary(kind: Kind): Promise<void> {
    return this.store.put(canaryKey(this.name, this.layout, kind), now(), this.#lease);
  }

  #keepAlive(): void {
    const seconds = this.#options.leaseSeconds ?? 900;
    this.#every((seconds * 1000) / 3, async () => {
      // An apiserver whose lease ran out writes everything again.
      if (this.#lease !== undefined && !(await this.store.keepAlive(this.#lease))) await this.publish();
    });
    if (this.#heartbeatMs > 0) this.#every(this.#heartbeatMs, () => this.store.put(HEARTBEAT, now(), this.#lease));
  }

  #every(ms: number, work: () => Promise<void>): void {
    // A store that is away is the subject of many a test, not a failure of the cluster.
    this.#timers.push(setInterval(() => void work().catch(() => {}), ms).unref());
  }

  /** Writes keep their order, whoever asks for them. */
  #inOrder<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#last.catch(() => {}).then(work);
    this.#last = result;
    return result;
  }
}

/** The labels that Cilium gives a pod's identity. */
export function podLabels(cluster: string, pod: Pick<PodOptions, 'namespace' | 'labels'>): Labels {
  return {
    ...pod.labels,
    'io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name': pod.namespace,
    'io.cilium.k8s.policy.cluster': cluster,
    'io.cilium.k8s.policy.serviceaccount': 'default',
    'io.kubernetes.pod.namespace': pod.namespace,
  };
}
