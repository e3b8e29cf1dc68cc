import { messageOf } from '../core/errors.ts';
import { identity, identityBlock, type MaxClusters } from '../core/identity.ts';
import { parsePrefix } from '../core/ip.ts';
import { decodeAddress } from '../kvstore/codec/address.ts';
import { decodeIdentity } from '../kvstore/codec/identity.ts';
import { BadValue } from '../kvstore/codec/json.ts';
import { decodeNode } from '../kvstore/codec/node.ts';
import { decodeService } from '../kvstore/codec/service.ts';
import type { FactKind } from '../kvstore/paths.ts';
import type { PrefixSink } from '../kvstore/store.ts';
import type { Origin } from './origin.ts';
import type { Tables } from './tables.ts';

export interface FollowedCluster {
  readonly name: string;
  readonly id: number;
  readonly max: MaxClusters;
  /** The cluster that this machine joined: its facts are stronger, and its workloads are ours. */
  readonly joined: boolean;
}

/** What each kind does with its keys; everything else is the same for all. */
interface FactWriter {
  /** Throws BadValue. */
  put(key: string, value: Buffer, generation: number): void;
  /** The value under this key was refused: what was accepted before stays. */
  keep(key: string, generation: number): void;
  remove(key: string): void;
  /** Removes what was not put or kept in this generation; everything without one. */
  sweep(generation?: number): void;
}

/** Takes the facts of one kind and cluster from a watched prefix into the tables. Refused values go to quarantine. */
export class FactSink implements PrefixSink {
  readonly #cluster: string;
  readonly #prefix: string;
  readonly #tables: Tables;
  readonly #writer: FactWriter;
  readonly #onListed: () => void;
  #generation = 0;

  constructor(
    tables: Tables,
    cluster: FollowedCluster,
    watch: { kind: FactKind; prefix: string; onListed: () => void },
  ) {
    this.#cluster = cluster.name;
    this.#prefix = watch.prefix;
    this.#tables = tables;
    this.#writer = WRITERS[watch.kind](tables, cluster);
    this.#onListed = watch.onListed;
  }

  listing(): void {
    this.#generation = this.#tables.nextGeneration();
    this.#tables.quarantine.clearBelow(this.#cluster, this.#prefix);
  }

  put(key: string, value: Buffer): void {
    try {
      this.#writer.put(key, value, this.#generation);
      this.#tables.quarantine.clear(this.#cluster, this.#prefix + key);
    } catch (error) {
      if (!(error instanceof BadValue)) throw error;
      this.#writer.keep(key, this.#generation);
      this.#tables.quarantine.refuse(this.#cluster, this.#prefix + key, messageOf(error));
    }
  }

  remove(key: string): void {
    this.#writer.remove(key);
    this.#tables.quarantine.clear(this.#cluster, this.#prefix + key);
  }

  listed(): void {
    this.#writer.sweep(this.#generation);
    this.#onListed();
  }

  /** Takes everything back: the cluster is no longer followed. */
  drain(): void {
    this.#writer.sweep();
    this.#tables.quarantine.clearBelow(this.#cluster, this.#prefix);
  }
}

const WRITERS: Record<FactKind, (tables: Tables, cluster: FollowedCluster) => FactWriter> = {
  nodes: nodeWriter,
  endpoints: endpointWriter,
  identities: identityWriter,
  services: serviceWriter,
};

export function factOrigin(tables: Tables, cluster: FollowedCluster): Origin {
  return tables.origins.of(cluster.name, cluster.joined ? 'kvstore' : 'clustermesh');
}

function endpointWriter(tables: Tables, cluster: FollowedCluster): FactWriter {
  const origin = factOrigin(tables, cluster);
  const block = identityBlock(cluster.id, cluster.max);
  const { ipcache } = tables;
  return {
    put(key, value, generation) {
      const entry = decodeAddress(key, value, block);
      ipcache.claim(origin, generation, {
        address: entry.address,
        bits: entry.bits,
        identity: entry.identity,
        tunnelEndpoint: entry.host,
      });
    },
    keep(key, generation) {
      const prefix = parsePrefix(key);
      if (prefix !== undefined) ipcache.keep(origin, generation, prefix, key.includes('/') ? prefix.bits : undefined);
    },
    remove(key) {
      const prefix = parsePrefix(key);
      if (prefix !== undefined) ipcache.withdraw(origin, prefix, key.includes('/') ? prefix.bits : undefined);
    },
    sweep: (generation) => ipcache.sweep(origin, generation),
  };
}

function identityWriter(tables: Tables, cluster: FollowedCluster): FactWriter {
  const origin = factOrigin(tables, cluster);
  const block = identityBlock(cluster.id, cluster.max);
  const { identities } = tables;
  return {
    put(key, value, generation) {
      const { id, labels } = decodeIdentity(key, value, { cluster: cluster.name, block });
      identities.put(origin, generation, id, { cluster: cluster.name, labels });
    },
    keep: (key, generation) => void identities.keep(origin, generation, identity(Number(key))),
    remove: (key) => identities.remove(origin, identity(Number(key))),
    sweep: (generation) => identities.sweep(origin, generation),
  };
}

function nodeWriter(tables: Tables, cluster: FollowedCluster): FactWriter {
  const origin = factOrigin(tables, cluster);
  const { nodes, nodeAddresses } = tables;
  const name = (key: string): string => `${cluster.name}/${key}`;
  return {
    put(key, value, generation) {
      const node = decodeNode(key, value, { cluster: cluster.name, clusterId: cluster.id });
      nodes.put(origin, generation, name(key), node);
      nodeAddresses.put(node, cluster.joined);
    },
    keep: (key, generation) => void nodes.keep(origin, generation, name(key)),
    remove(key) {
      nodes.remove(origin, name(key));
      nodeAddresses.remove(cluster.name, key);
    },
    sweep(generation) {
      const before = [...nodes.values()].filter((node) => node.cluster === cluster.name);
      nodes.sweep(origin, generation);
      for (const node of before)
        if (nodes.get(name(node.name)) === undefined) nodeAddresses.remove(cluster.name, node.name);
    },
  };
}

function serviceWriter(tables: Tables, cluster: FollowedCluster): FactWriter {
  const origin = factOrigin(tables, cluster);
  const { services } = tables;
  const name = (key: string): string => `${cluster.name}/${key}`;
  return {
    put(key, value, generation) {
      services.put(
        origin,
        generation,
        name(key),
        decodeService(key, value, { cluster: cluster.name, clusterId: cluster.id }),
      );
    },
    keep: (key, generation) => void services.keep(origin, generation, name(key)),
    remove: (key) => services.remove(origin, name(key)),
    sweep: (generation) => services.sweep(origin, generation),
  };
}
