import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { endProcess, until } from './namespace.ts';
import type { ClusterNode } from './topology.ts';

/** What a cluster knows of the cluster of a hub. Keys of `removed` are relative to `cilium/state/`. */
export interface PeerFacts {
  readonly ready: boolean;
  readonly waitingFor: string | null;
  readonly nodes: readonly {
    readonly name: string;
    readonly addresses: readonly string[];
    readonly ranges: readonly string[];
  }[];
  readonly addresses: readonly PeerAddress[];
  readonly identities: readonly { readonly number: number; readonly labels: readonly string[] }[];
  /** Every key that vanished from the store since the beginning, in order. */
  readonly removed: readonly string[];
}

export interface PeerAddress {
  /** `192.168.100.10/32` */
  readonly prefix: string;
  readonly identity: number;
  readonly host: string | null;
}

export interface HubPeerOptions {
  /** Where it runs; what it learns decides where this node sends packets of its pods. */
  readonly node: ClusterNode;
  readonly cluster: { readonly name: string; readonly id: number };
  /** The etcd configuration file that the hub exported. */
  readonly config: string;
  /** The name of the hub's cluster. */
  readonly hub: string;
  /** A policy for the pods of this node: machines with all of these labels may reach them, others may not. */
  readonly admitted?: readonly string[];
}

/** The agent of a node of another cluster, as far as it concerns the hub: reads its facts and routes by them. */
export class HubPeer {
  readonly #node: ClusterNode;
  readonly #admitted: readonly string[] | undefined;
  readonly #child: ChildProcess;
  readonly #routed = new Set<string>();
  #facts: PeerFacts | undefined;
  #log = '';

  private constructor(options: HubPeerOptions) {
    const { node, cluster, config, hub } = options;
    this.#node = node;
    this.#admitted = options.admitted;
    const script = join(import.meta.dirname, 'hub-peer-worker.ts');
    const args = [config, cluster.name, String(cluster.id), hub];
    const where = [`--net=/run/netns/${node.place.namespace.name}`, process.execPath, '--no-warnings', script];
    this.#child = spawn('nsenter', [...where, ...args], { stdio: ['ignore', 'ignore', 'pipe', 'ipc'] });
    this.#child.stderr?.on('data', (data: Buffer) => {
      this.#log = (this.#log + data.toString()).slice(-4000);
    });
    this.#child.on('message', (facts: PeerFacts) => this.#learn(facts));
  }

  /** Starts it and waits until it knows everything that the hub tells. */
  static async start(options: HubPeerOptions): Promise<HubPeer> {
    const peer = new HubPeer(options);
    try {
      await peer.until('it has the facts of the hub', ({ ready }) => ready);
      return peer;
    } catch (error) {
      await peer.close();
      throw error;
    }
  }

  get facts(): PeerFacts {
    if (this.#facts === undefined) throw new Error('the peer knows nothing yet');
    return this.#facts;
  }

  /** What it knows of one address: its identity with labels, and its tunnel endpoint. */
  address(ip: string): (PeerAddress & { readonly labels: readonly string[] }) | undefined {
    const prefix = `${ip}/${ip.includes(':') ? 128 : 32}`;
    const found = this.#facts?.addresses.find((address) => address.prefix === prefix);
    const labels = this.#facts?.identities.find(({ number }) => number === found?.identity)?.labels ?? [];
    return found && { ...found, labels };
  }

  async until(what: string, condition: (facts: PeerFacts) => boolean, timeoutMs = 20_000): Promise<PeerFacts> {
    await until(
      `the peer: ${what}`,
      () => {
        if (this.#child.exitCode !== null) throw new Error(`the peer ended: ${this.#log}`);
        return this.#facts !== undefined && condition(this.#facts);
      },
      timeoutMs,
    ).catch((error: unknown) => {
      throw new Error(`${String(error)}\n${JSON.stringify(this.#facts, null, 1)}\n${this.#log}`);
    });
    return this.facts;
  }

  close(): Promise<void> {
    return endProcess(this.#child);
  }

  #learn(facts: PeerFacts): void {
    this.#facts = facts;
    const wanted = this.#admitted;
    if (wanted !== undefined) {
      const may = facts.identities.filter(({ labels }) => wanted.every((label) => labels.includes(label)));
      this.#node.admit(may.map(({ number }) => number));
    }
    const routes = new Map(facts.addresses.flatMap(({ prefix, host }) => (host === null ? [] : [[prefix, host]])));
    for (const prefix of this.#routed) {
      if (routes.has(prefix)) continue;
      this.#node.forget(prefix);
      this.#routed.delete(prefix);
    }
    for (const [prefix, host] of routes) {
      this.#node.learn(prefix, host);
      this.#routed.add(prefix);
    }
  }
}
