import type { EtcdOptions } from '../../src/kvstore/etcd-config.ts';
import { openStore } from '../../src/kvstore/session.ts';
import type { PrefixSink, Store } from '../../src/kvstore/store.ts';
import type { StandInCluster } from './cluster.ts';
import { addressValue, type Labels, nodeValue, REGISTRATIONS } from './values.ts';

/** What an administrator wrote: a CiliumExternalWorkload. */
export interface Workload {
  readonly name: string;
  readonly labels?: Labels;
  readonly ipv4AllocCidr?: string;
  readonly ipv6AllocCidr?: string;
}

/** A registration value as it stands in the store. */
export interface Registration {
  readonly Name: string;
  readonly Cluster: string;
  readonly ClusterID: number;
  readonly IPAddresses: readonly { readonly Type: string; readonly IP: string }[] | null;
  readonly IPv4AllocCIDR: unknown;
  readonly IPv6AllocCIDR: unknown;
  readonly Source: string;
  readonly Labels: Labels | null;
  readonly NodeIdentity: number;
  readonly BootID: string;
}

const RETRY_MS = 100;

/**
 * Answers registrations as the external-workload manager of Cilium 1.16's clustermesh-apiserver does (kvstore specification 6.2):
 * phase one, told by NodeIdentity 0, is answered with labels, ranges and identity from the administrator's object; phase
 * two publishes the machine's node and addresses. A registration without an object is ignored until there is one.
 */
export class WorkloadManager {
  readonly #cluster: StandInCluster;
  readonly #store: Store;
  readonly #workloads = new Map<string, Workload>();
  readonly #present = new Map<string, string>();
  readonly #published = new Map<string, readonly string[]>();
  /** Every value that was seen under a registration key, the manager's own answers too, oldest first. */
  readonly history = new Map<string, string[]>();
  /** False: registrations are seen, but not answered, as if the manager hung. */
  answering = true;
  #last: Promise<unknown> = Promise.resolve();

  constructor(cluster: StandInCluster, etcd: EtcdOptions) {
    this.#cluster = cluster;
    this.#store = openStore({ etcd: () => Promise.resolve(etcd) });
    this.#store.watchPrefix(REGISTRATIONS, this.#sink());
  }

  /** Creates a workload, or changes it: its machine is answered anew. */
  async apply(workload: Workload): Promise<void> {
    this.#workloads.set(workload.name, workload);
    await this.#inOrder(() => this.#phaseOne(workload.name));
  }

  /** Takes node and addresses of the machine away. The machine is not told; its identity is never released. */
  async delete(name: string): Promise<void> {
    this.#workloads.delete(name);
    await this.#inOrder(() => this.#withdraw(name));
  }

  /** Looks at all registrations again, after `answering` was turned on. */
  async answerAll(): Promise<void> {
    this.answering = true;
    for (const name of this.#present.keys()) await this.#inOrder(() => this.#answer(name));
  }

  /** Labels of a workload's identity: no label is filtered, so that every machine has its own. */
  labelsOf({ name, labels = {} }: Workload): Labels {
    return {
      'io.kubernetes.pod.namespace': 'default',
      ...labels,
      'io.kubernetes.pod.name': name,
      'io.cilium.k8s.policy.cluster': this.#cluster.name,
    };
  }

  async close(): Promise<void> {
    await this.#store.close();
    await this.#last.catch(() => {});
  }

  #sink(): PrefixSink {
    return {
      listing: () => this.#present.clear(),
      put: (name, value) => {
        const text = value.toString('utf8');
        const seen = this.history.get(name) ?? [];
        if (seen.at(-1) !== text) this.history.set(name, [...seen, text]);
        this.#present.set(name, text);
        this.#answerSoon(name);
      },
      // A machine whose lease ran out keeps its node: the manager ignores the deletion.
      remove: (name) => this.#present.delete(name),
      listed: () => {},
    };
  }

  /** Until it worked: a store that is just being filled refuses leases of before. */
  #answerSoon(name: string): void {
    this.#inOrder(() => this.#answer(name)).catch(() => {
      if (this.#store.status.state !== 'closed') setTimeout(() => this.#answerSoon(name), RETRY_MS).unref();
    });
  }

  #registration(name: string): Registration | undefined {
    try {
      return JSON.parse(this.#present.get(name) ?? 'null') ?? undefined;
    } catch {
      return undefined;
    }
  }

  async #answer(name: string): Promise<void> {
    const registration = this.#registration(name);
    if (registration === undefined || !this.answering) return;
    if (registration.NodeIdentity === 0) await this.#phaseOne(name);
    else await this.#phaseTwo(name, registration);
  }

  async #phaseOne(name: string): Promise<void> {
    const workload = this.#workloads.get(name);
    const registration = this.#registration(name);
    if (workload === undefined || registration === undefined || !this.answering) return;
    const labels = this.labelsOf(workload);
    const identity = await this.#cluster.identityOf(labels);
    const answer = nodeValue({
      name,
      cluster: this.#cluster.name,
      clusterId: this.#cluster.id,
      range4: workload.ipv4AllocCidr,
      range6: workload.ipv6AllocCidr,
      source: 'kvstore',
      labels,
      nodeIdentity: identity,
      bootId: registration.BootID,
    });
    await this.#cluster.store.put(REGISTRATIONS + name, answer, this.#cluster.lease);
  }

  async #phaseTwo(name: string, registration: Registration): Promise<void> {
    const workload = this.#workloads.get(name);
    const addresses = registration.IPAddresses ?? [];
    // The manager sees its own answer too; it carries no address.
    if (workload === undefined || addresses.length === 0) return;
    const labels = this.labelsOf(workload);
    await this.#cluster.set(
      'nodes',
      name,
      nodeValue({
        name,
        cluster: this.#cluster.name,
        clusterId: this.#cluster.id,
        addresses,
        range4: workload.ipv4AllocCidr,
        range6: workload.ipv6AllocCidr,
        labels,
        nodeIdentity: registration.NodeIdentity,
        bootId: registration.BootID,
      }),
    );
    const host = addresses.find(({ Type, IP }) => Type === 'InternalIP' && !IP.includes(':'))?.IP ?? '';
    const namespace = labels['io.kubernetes.pod.namespace'] ?? 'default';
    const present = addresses.map(({ IP }) => IP);
    for (const ip of present) {
      const value = addressValue({ ip, host, identity: registration.NodeIdentity, namespace, pod: name });
      await this.#cluster.set('endpoints', ip, value);
    }
    for (const ip of this.#published.get(name) ?? [])
      if (!present.includes(ip)) await this.#cluster.unset('endpoints', ip);
    this.#published.set(name, present);
  }

  async #withdraw(name: string): Promise<void> {
    for (const ip of this.#published.get(name) ?? []) await this.#cluster.unset('endpoints', ip);
    if (this.#published.delete(name)) await this.#cluster.unset('nodes', name);
  }

  #inOrder(work: () => Promise<void>): Promise<void> {
    const result = this.#last.catch(() => {}).then(work);
    this.#last = result;
    return result;
  }
}
