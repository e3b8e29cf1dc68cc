import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { NewTokenRecord } from '../../src/api/enrolment.ts';
import type { StatusRecord } from '../../src/api/types.ts';
import type { ConnectAnswer, RemoteClusterRecord } from '../../src/hub/clusters/records.ts';
import type { WorkloadRecord } from '../../src/hub/workloads/records.ts';
import { Agent } from './agent.ts';
import { HubHost, type HubHostOptions, VMS } from './hub-host.ts';
import { HubPeer } from './hub-peer.ts';
import { serveEverywhere } from './matrix.ts';
import { type ClusterOptions, LabCluster } from './mesh-lab.ts';
import { until } from './namespace.ts';
import type { Place } from './place.ts';
import { type DualAddress, Topology } from './topology.ts';

const HUB_HOST = 5;

/**
 * A hub, stand-in clusters that it is connected to and that read it, and machines that join it. Nobody knows of anybody
 * but by what the hub published: nodes of the clusters route to machines by the facts that they read there.
 */
export class Fleet {
  readonly folder = mkdtempSync(join(tmpdir(), 'mesh-fleet-'));
  readonly topology = new Topology({ introduced: false });
  /** The first one; each is a host of its own. */
  readonly hub: HubHost;
  readonly clusters = new Map<string, LabCluster>();
  readonly peers = new Map<string, HubPeer>();
  readonly agents = new Map<string, Agent>();
  readonly #hubs: HubHost[] = [];
  readonly #starting = new Set<Promise<LabCluster>>();

  constructor(hub: HubOptions = {}) {
    this.hub = this.addHub(hub);
  }

  /** A hub that leads, with clusters connected and reading it, a workload `my-vm`, and its machine joined and ready. */
  static async start(options: FleetOptions = {}): Promise<Fleet> {
    const fleet = new Fleet(options.hub);
    try {
      await fleet.hub.init();
      fleet.hub.start();
      const clusters = (options.clusters ?? []).map((cluster) => fleet.add(cluster));
      await Promise.all([fleet.hub.untilLeading(), ...clusters]);
      for (const { name } of options.clusters ?? []) {
        await fleet.connect(name);
        await fleet.peer(name);
      }
      await fleet.create('my-vm');
      await fleet.join('my-vm');
      await serveEverywhere(fleet);
      return fleet;
    } catch (error) {
      await fleet.close();
      throw error;
    }
  }

  /** Another host for a hub; nothing is made of it. */
  addHub(options: HubOptions = {}): HubHost {
    const count = this.#hubs.length;
    const place = this.topology.host(`hub${count}`, HUB_HOST + count);
    const hub = new HubHost({ place, folder: join(this.folder, `hub${count}`), ...options });
    this.#hubs.push(hub);
    return hub;
  }

  async add(options: ClusterOptions): Promise<LabCluster> {
    // Long enough that the hub has nothing to warn of.
    const starting = LabCluster.start(this.topology, { days: 400, ...options });
    this.#starting.add(starting);
    const cluster = await starting;
    this.clusters.set(cluster.name, cluster);
    cluster.node.masquerade();
    return cluster;
  }

  cluster(name: string): LabCluster {
    const cluster = this.clusters.get(name);
    if (cluster === undefined) throw new Error(`the fleet has no cluster ${name}`);
    return cluster;
  }

  /** `hub cluster connect`, and waits until everything of the cluster is in the cache. */
  async connect(name: string): Promise<ConnectAnswer> {
    const file = join(this.folder, `${name}.yaml`);
    writeFileSync(file, this.cluster(name).etcdConfig('remote'));
    const answer = await this.hub.json<ConnectAnswer>('cluster', 'connect', name, '--config', file);
    await until(`${name} is copied`, async () => (await this.remote(name)).ready, 30_000);
    return answer;
  }

  remote(name: string): Promise<RemoteClusterRecord> {
    return this.hub.ask(`/v1/clusters/${name}`);
  }

  /** `hub cluster export`, and starts what reads the hub with it. `admitted`: whom the pods of the cluster let in. */
  async peer(name: string, admitted?: readonly string[]): Promise<HubPeer> {
    const cluster = this.cluster(name);
    const folder = join(this.folder, `peer-${name}`);
    await this.hub.must('cluster', 'export', name, '--dir', folder);
    const { node, facts } = cluster;
    const own = { name, id: facts.id };
    const peer = await HubPeer.start({
      node,
      cluster: own,
      config: join(folder, VMS.name),
      hub: VMS.name,
      ...(admitted !== undefined && { admitted }),
    });
    this.peers.set(name, peer);
    return peer;
  }

  /** What a cluster knows of the machines. */
  peerOf(name: string): HubPeer {
    const peer = this.peers.get(name);
    if (peer === undefined) throw new Error(`${name} does not read the hub`);
    return peer;
  }

  async create(name: string, ...more: string[]): Promise<string> {
    const labels = ['--label', 'app=backend', 'env=production', '--namespace', 'production'];
    return this.hub.must('workload', 'create', name, ...(more.length === 0 ? labels : more));
  }

  /** `hub policy apply` of a CiliumNetworkPolicy with this spec; JSON is YAML. */
  async apply(name: string, spec: object): Promise<string> {
    const file = join(this.folder, `policy-${name}.yaml`);
    const metadata = { name, namespace: 'production' };
    writeFileSync(file, JSON.stringify({ apiVersion: 'cilium.io/v2', kind: 'CiliumNetworkPolicy', metadata, spec }));
    return this.hub.must('policy', 'apply', '-f', file);
  }

  workload(name: string): Promise<WorkloadRecord> {
    return this.hub.ask(`/v1/workloads/${name}`);
  }

  async token(name: string): Promise<string> {
    return (await this.hub.json<NewTokenRecord>('workload', 'token', name)).token;
  }

  /** A machine with nothing on it. */
  machineFor(name: string): Agent {
    const place = this.topology.machine(name);
    const folder = join(this.folder, name);
    mkdirSync(folder);
    const agent = new Agent({ place, folder, config: {} });
    this.agents.set(name, agent);
    return agent;
  }

  /** From the token to a machine that enforces. */
  async join(name: string): Promise<StatusRecord> {
    const agent = this.agents.get(name) ?? this.machineFor(name);
    const { code, stderr } = await agent.runThere('join', '--token', await this.token(name));
    if (code !== 0) throw new Error(`join ${name}: exit ${code}\n${stderr}`);
    agent.start();
    return agent.untilReady(60_000);
  }

  agentOf(name: string): Agent {
    const agent = this.agents.get(name);
    if (agent === undefined) throw new Error(`the fleet has no machine ${name}`);
    return agent;
  }

  /** Whether a machine knows an address as one of a machine or pod. */
  async knows(name: string, ip: string): Promise<boolean> {
    const entry = await this.agentOf(name)
      .api.ipcacheGet(ip)
      .catch(() => undefined);
    return entry !== undefined && entry.identity >= 256;
  }

  get agent(): Agent {
    return this.agentOf('my-vm');
  }

  get machine(): Place & DualAddress {
    const [first] = this.topology.machines;
    if (first === undefined) throw new Error('the fleet has no machine');
    return first;
  }

  async close(): Promise<void> {
    await Promise.allSettled(this.#starting);
    await Promise.all([...this.agents.values()].map((agent) => agent.stop()));
    await Promise.all([...this.peers.values()].map((peer) => peer.close()));
    await Promise.all(this.#hubs.map((hub) => hub.stop()));
    await Promise.all([...this.clusters.values()].map((cluster) => cluster.close()));
    await this.topology.close();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

export type HubOptions = Pick<HubHostOptions, 'pool' | 'hurry'>;

export interface FleetOptions {
  readonly clusters?: readonly ClusterOptions[];
  readonly hub?: HubOptions;
}
