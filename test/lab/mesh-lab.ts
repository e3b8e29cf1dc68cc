import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { EtcdOptions } from '../../src/kvstore/etcd-config.ts';
import { Agent } from './agent.ts';
import { type PodOptions, StandInCluster, type StandInOptions } from './cluster.ts';
import { Door } from './door.ts';
import { Etcd, loopbackAddress } from './etcd.ts';
import { type CertificateFiles, Pki } from './pki.ts';
import type { Place } from './place.ts';
import { type ClusterNode, type DualAddress, type Pod, type Routing, Topology } from './topology.ts';
import type { Labels } from './values.ts';
import { type Workload, WorkloadManager } from './workload.ts';

export interface ClusterOptions {
  readonly name: string;
  readonly id: number;
  /** Labels of the pods by name; each is a place of the topology. */
  readonly pods?: Readonly<Record<string, Labels>>;
  readonly standIn?: Partial<StandInOptions>;
  /** Life of its certificate authority; two by default. */
  readonly days?: number;
}

const NAMESPACE = 'production';

/**
 * One cluster of the lab: a node with pods in the topology, and an etcd with TLS, client certificates and the users of
 * Cilium 1.16, reached at the node's address.
 */
export class LabCluster {
  readonly name: string;
  readonly etcd: Etcd;
  readonly facts: StandInCluster;
  readonly workloads: WorkloadManager;
  readonly door: Door;
  readonly node: ClusterNode;
  readonly pods: ReadonlyMap<string, Pod>;
  readonly pki: Pki;
  readonly #labels: Map<string, Labels>;

  private constructor(parts: {
    options: ClusterOptions;
    etcd: Etcd;
    door: Door;
    node: ClusterNode;
    pki: Pki;
    admin: EtcdOptions;
  }) {
    const { options, admin } = parts;
    this.name = options.name;
    this.etcd = parts.etcd;
    this.door = parts.door;
    this.node = parts.node;
    this.pki = parts.pki;
    this.facts = new StandInCluster({ name: options.name, id: options.id, etcd: admin, ...options.standIn });
    this.workloads = new WorkloadManager(this.facts, admin);
    this.#labels = new Map(Object.entries(options.pods ?? {}));
    const names = [...this.#labels.keys()];
    this.pods = new Map(names.map((name, index) => [name, this.node.pod(`${name}-${options.id}`, 5 + index)]));
  }

  static async start(topology: Topology, options: ClusterOptions): Promise<LabCluster> {
    const node = topology.node(`node-${options.id}`, { cluster: options.id });
    const pki = new Pki(`${options.name}-ca`, options.days);
    const names = ['localhost', '127.0.0.1', loopbackAddress(), node.place.ipv4, node.place.ipv6, '*.mesh.cilium.io'];
    const server = pki.server({ commonName: 'clustermesh-apiserver.cilium.io', names });
    const admin = pki.client('root');
    const etcd = await Etcd.start({ tls: { server, admin } });
    const target = { host: etcd.members[0]?.address ?? '', port: etcd.members[0]?.port ?? 0 };
    const door = await Door.open(node.place, { host: node.place.ipv4, port: 2379 }, target);
    const etcdOptions = { endpoints: etcd.endpoints, ...admin };
    const cluster = new LabCluster({ options, etcd, door, node, pki, admin: etcdOptions });
    try {
      await cluster.allowUsers();
      await cluster.announce();
      return cluster;
    } catch (error) {
      await cluster.close();
      throw error;
    }
  }

  /** The users and roles of a clustermesh-apiserver of 1.16 (kvstore specification 7.1); again after the data were lost. */
  async allowUsers(): Promise<void> {
    const read = (prefix: string) => ({ permission: 'read', prefix }) as const;
    const write = (prefix: string) => ({ permission: 'readwrite', prefix }) as const;
    const own = [write('cilium/state/noderegister/v1/'), write('cilium/.initlock/')];
    await this.etcd.addUser('externalworkload', [read(''), ...own]);
    const prefixes = ['.heartbeat', 'cache/', 'cluster-config/', 'state/', 'synced/'];
    await this.etcd.addUser(
      'remote',
      prefixes.map((prefix) => read(`cilium/${prefix}`)),
    );
    await this.etcd.enableAuth();
  }

  /** Publishes the node and the pods. */
  async announce(): Promise<void> {
    const { place, range4, range6 } = this.node;
    await this.facts.node({ name: place.label, ipv4: place.ipv4, ipv6: place.ipv6, range4, range6 });
    for (const name of this.pods.keys()) await this.relabel(name, this.#labels.get(name) ?? {});
    await this.facts.publish();
  }

  /** Loses everything that the etcd holds, and fills it again, as a restarted clustermesh-apiserver does. */
  async loseData(): Promise<void> {
    this.facts.silence();
    await this.etcd.reset();
    await this.allowUsers();
    await this.facts.publish();
  }

  /** Gives a pod other labels: another identity, in the store and in its packets. */
  async relabel(name: string, labels: Labels): Promise<number> {
    const pod = this.place(name);
    this.#labels.set(name, labels);
    const options: PodOptions = {
      name,
      namespace: NAMESPACE,
      labels,
      addresses: [pod.ipv4, pod.ipv6],
      host: this.node.place.ipv4,
    };
    const identity = await this.facts.pod(options);
    this.node.identify(pod, identity);
    return identity;
  }

  place(name: string): Pod {
    const pod = this.pods.get(name);
    if (pod === undefined) throw new Error(`${this.name} has no pod ${name}`);
    return pod;
  }

  /** An etcd configuration file for a user of this cluster's store, as Cilium writes it. */
  etcdConfig(user: 'externalworkload' | 'remote', files: CertificateFiles = this.pki.client(user)): string {
    return [
      'endpoints:',
      `- https://${this.node.place.ipv4}:2379`,
      `trusted-ca-file: ${files.ca}`,
      `cert-file: ${files.cert}`,
      `key-file: ${files.key}`,
      '',
    ].join('\n');
  }

  async close(): Promise<void> {
    this.facts.silence();
    await this.door.close();
    await this.workloads.close();
    await this.facts.close();
    await this.etcd.close();
    this.pki.close();
  }
}

/** What the text says that a machine is: `cilium clustermesh vm create my-vm --labels app=backend,env=production`. */
export const WORKLOAD: Workload = {
  name: 'my-vm',
  labels: { app: 'backend', env: 'production', 'io.kubernetes.pod.namespace': NAMESPACE },
  ipv4AllocCidr: '10.192.1.0/24',
};

/** Clusters, a machine and an agent that has not been started. */
export class MeshLab {
  readonly topology: Topology;
  readonly machine: Place & DualAddress;
  readonly folder: string;
  readonly clusters = new Map<string, LabCluster>();
  readonly agent: Agent;
  #credentials: CertificateFiles | undefined;

  private constructor(options: MeshLabOptions) {
    this.folder = mkdtempSync(join(tmpdir(), 'mesh-lab-'));
    this.topology = new Topology(options.routing === undefined ? {} : { routing: options.routing });
    this.machine = this.topology.machine();
    this.agent = this.#makeAgent(options);
  }

  /** The first cluster is the one that the machine joins; it has the workload unless `workload` is null. */
  static async start(clusters: readonly ClusterOptions[], options: MeshLabOptions = {}): Promise<MeshLab> {
    const lab = new MeshLab(options);
    try {
      for (const cluster of clusters) await lab.add(cluster);
      const [home] = lab.clusters.values();
      if (options.workload !== null) await home?.workloads.apply(options.workload ?? WORKLOAD);
      return lab;
    } catch (error) {
      await lab.close();
      throw error;
    }
  }

  async add(options: ClusterOptions): Promise<LabCluster> {
    const cluster = await LabCluster.start(this.topology, options);
    if (this.clusters.size === 0) {
      this.#credentials = cluster.pki.client('externalworkload');
      writeFileSync(this.etcdFile, cluster.etcdConfig('externalworkload', this.#credentials));
    }
    this.clusters.set(cluster.name, cluster);
    return cluster;
  }

  /** The certificate that the agent joins with; its files may be replaced. */
  get credentials(): CertificateFiles {
    if (this.#credentials === undefined) throw new Error('the lab has no cluster to join');
    return this.#credentials;
  }

  /** Tells the agent of a remote cluster: one file in its directory. */
  connect(name: string): void {
    this.agent.cluster(name, this.cluster(name).etcdConfig('remote'));
  }

  get etcdFile(): string {
    return join(this.folder, 'etcd.yaml');
  }

  cluster(name: string): LabCluster {
    const cluster = this.clusters.get(name);
    if (cluster === undefined) throw new Error(`the lab has no cluster ${name}`);
    return cluster;
  }

  async close(): Promise<void> {
    await this.agent.stop();
    await Promise.all([...this.clusters.values()].map((cluster) => cluster.close()));
    await this.topology.close();
    rmSync(this.folder, { recursive: true, force: true });
  }

  #makeAgent(options: MeshLabOptions): Agent {
    const config = {
      name: WORKLOAD.name,
      kvstore: { config: this.etcdFile },
      ...(options.routing === 'native' && { routing: 'native' }),
      ...options.config,
    };
    return new Agent({ place: this.machine, folder: this.folder, config });
  }
}

export interface MeshLabOptions {
  readonly routing?: Routing;
  readonly workload?: Workload | null;
  /** Keys of the agent's configuration. */
  readonly config?: Readonly<Record<string, unknown>>;
}
