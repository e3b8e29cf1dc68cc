import { messageOf } from '../core/errors.ts';
import { identity, identityBlock, type MaxClusters, type NumericIdentity } from '../core/identity.ts';
import { type Address, formatAddress, formatPrefix, parsePrefix } from '../core/ip.ts';
import { decodeAddress } from '../kvstore/codec/address.ts';
import { decodeEndpointSlice } from '../kvstore/codec/endpoint-slice.ts';
import { decodeIdentity } from '../kvstore/codec/identity.ts';
import { BadValue } from '../kvstore/codec/json.ts';
import { decodeNode } from '../kvstore/codec/node.ts';
import { decodeService } from '../kvstore/codec/service.ts';
import { ALL_FACT_KINDS, type FactKind } from '../kvstore/paths.ts';
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
  /** Removes what was not put or kept in this generation or a later one, step by step. */
  sweeping(generation: number): Generator<void>;
}

export interface FactWatch {
  readonly kind: FactKind;
  readonly prefix: string;
  /** Whether a list that is over now can be believed to be complete. */
  readonly mayRemove?: () => boolean;
  /** The list was complete, and what was not in it is gone. */
  readonly onListed: () => void;
}

/** Takes the facts of one kind and cluster from a watched prefix into the tables. Refused values go to quarantine. */
export class FactSink implements PrefixSink {
  readonly #cluster: FollowedCluster;
  readonly #watch: FactWatch;
  readonly #tables: Tables;
  readonly #writer: FactWriter;
  #generation = 0;
  #partial = false;

  constructor(tables: Tables, cluster: FollowedCluster, watch: FactWatch) {
    this.#cluster = cluster;
    this.#watch = watch;
    this.#tables = tables;
    this.#writer = WRITERS[watch.kind](tables, cluster);
  }

  /** The last list was not believed: it has to be listed again. */
  get partial(): boolean {
    return this.#partial;
  }

  listing(): void {
    this.#generation = newGeneration(this.#tables, this.#cluster, this.#watch.kind);
  }

  put(key: string, value: Buffer): void {
    const { quarantine } = this.#tables;
    try {
      this.#writer.put(key, value, this.#generation);
      quarantine.clear(this.#cluster.name, this.#watch.prefix + key);
    } catch (error) {
      // Whatever it was: what was accepted before must not be swept for a value that nobody understands.
      this.#writer.keep(key, this.#generation);
      quarantine.refuse(this.#cluster.name, this.#watch.prefix + key, messageOf(error), this.#generation);
    }
  }

  remove(key: string): void {
    this.#writer.remove(key);
    this.#tables.quarantine.clear(this.#cluster.name, this.#watch.prefix + key);
  }

  listed(): void {
    const { mayRemove = () => true, prefix, onListed } = this.#watch;
    this.#partial = !mayRemove();
    if (this.#partial) return;
    this.#tables.quarantine.clearBelow(this.#cluster.name, prefix, this.#generation);
    this.#tables.slices.run(this.#writer.sweeping(this.#generation), onListed);
  }
}

/** Takes back everything that a cluster said: it is no longer followed. What is listed from now on stays. */
export function drainFacts(tables: Tables, cluster: FollowedCluster, prefixOf: (kind: FactKind) => string): void {
  for (const kind of ALL_FACT_KINDS) drainKind(tables, cluster, { kind, prefix: prefixOf(kind) });
}

/** Takes back what it said of one kind: the cluster does not write it any more. */
export function drainKind(
  tables: Tables,
  cluster: FollowedCluster,
  { kind, prefix }: Omit<FactWatch, 'onListed'>,
): void {
  tables.quarantine.clearBelow(cluster.name, prefix);
  const generation = newGeneration(tables, cluster, kind);
  tables.slices.run(WRITERS[kind](tables, cluster).sweeping(generation));
}

function newGeneration(tables: Tables, cluster: FollowedCluster, kind: FactKind): number {
  return tables.nextGeneration(`${factOrigin(tables, cluster).index} ${kind}`);
}

const WRITERS: Record<FactKind, (tables: Tables, cluster: FollowedCluster) => FactWriter> = {
  nodes: nodeWriter,
  endpoints: endpointWriter,
  identities: identityWriter,
  services: serviceWriter,
  slices: sliceWriter,
};

export function factOrigin(tables: Tables, cluster: FollowedCluster): Origin {
  return tables.origins.of(cluster.name, cluster.joined ? 'kvstore' : 'clustermesh');
}

/** The address or prefix that a key of `ip/v1` names; undefined unless it is spelled as a producer spells it. */
function addressOf(key: string): { readonly address: Address; readonly bits: number | undefined } | undefined {
  const prefix = parsePrefix(key);
  if (prefix === undefined) return undefined;
  const bits = key.includes('/') ? prefix.bits : undefined;
  return key === (bits === undefined ? formatAddress(prefix) : formatPrefix(prefix))
    ? { address: prefix, bits }
    : undefined;
}

/** The number that a key of `identities/v1/id` names; undefined unless it is spelled as a producer spells it. */
function numberOf(key: string): NumericIdentity | undefined {
  return /^[1-9][0-9]{0,9}$/.test(key) ? identity(Number(key)) : undefined;
}

function endpointWriter(tables: Tables, cluster: FollowedCluster): FactWriter {
  const origin = factOrigin(tables, cluster);
  const block = identityBlock(cluster.id, cluster.max);
  const { ipcache, portNames } = tables;
  const name = (key: string): string => `${cluster.name}/${key}`;
  return {
    put(key, value, generation) {
      const entry = decodeAddress(key, value, block);
      if (entry.identity === 0) throw new BadValue('ID 0 is no identity');
      if (entry.bits === 0) throw new BadValue('a prefix of all addresses belongs to nobody');
      ipcache.claim(origin, generation, {
        address: entry.address,
        bits: entry.bits,
        identity: entry.identity,
        tunnelEndpoint: entry.host,
      });
      portNames.put(origin, generation, name(key), { identity: identity(entry.identity), ports: entry.namedPorts });
    },
    keep(key, generation) {
      const named = addressOf(key);
      if (named === undefined) return;
      ipcache.keep(origin, generation, named.address, named.bits);
      portNames.keep(origin, generation, name(key));
    },
    remove(key) {
      const named = addressOf(key);
      if (named === undefined) return;
      ipcache.withdraw(origin, named.address, named.bits);
      portNames.remove(origin, name(key));
    },
    *sweeping(generation) {
      yield* portNames.sweeping(origin, generation);
      yield* ipcache.sweeping(origin, generation);
    },
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
    keep(key, generation) {
      const id = numberOf(key);
      if (id !== undefined) identities.keep(origin, generation, id);
    },
    remove(key) {
      const id = numberOf(key);
      if (id !== undefined) identities.remove(origin, id);
    },
    sweeping: (generation) => identities.sweeping(origin, generation),
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
      nodeAddresses.put(node, cluster);
    },
    keep: (key, generation) => void nodes.keep(origin, generation, name(key)),
    remove(key) {
      nodes.remove(origin, name(key));
      nodeAddresses.remove(cluster.name, key);
    },
    sweeping: (generation) =>
      nodes.sweeping(origin, generation, (_, node) => nodeAddresses.remove(cluster.name, node.name)),
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
    sweeping: (generation) => services.sweeping(origin, generation),
  };
}

function sliceWriter(tables: Tables, cluster: FollowedCluster): FactWriter {
  const origin = factOrigin(tables, cluster);
  const { serviceSlices } = tables;
  const name = (key: string): string => `${cluster.name}/${key}`;
  return {
    put(key, value, generation) {
      const slice = decodeEndpointSlice(key, value, { cluster: cluster.name, clusterId: cluster.id });
      serviceSlices.put(origin, generation, name(key), slice);
    },
    keep: (key, generation) => serviceSlices.keep(origin, generation, name(key)),
    remove: (key) => serviceSlices.remove(origin, name(key)),
    sweeping: (generation) => serviceSlices.sweeping(origin, generation),
  };
}
