/** Probes between nodes, as records; the rules of `types.ts` hold here, too. */

/** The outcome of the last probe of one kind to one address. */
export interface ConnectivityRecord {
  /** `blocked`: this machine's own policy does not let the probe out. `unknown`: not probed yet, or it cannot be. */
  readonly state: 'ok' | 'failed' | 'blocked' | 'unknown';
  readonly latencyMs?: number;
  /** Why it is not `ok`. */
  readonly reason?: string;
  readonly probedAt?: number;
  /** When it was `ok` last. */
  readonly okAt?: number;
}

export interface AddressHealthRecord {
  readonly ip: string;
  /** `node`: its own address. `health`: its health endpoint. `router`: its address inside the overlay. */
  readonly kind: 'node' | 'health' | 'router';
  /** It decides whether the node counts as reachable. */
  readonly primary: boolean;
  /** How packets get there. */
  readonly path: 'direct' | 'tunnel';
  readonly icmp: ConnectivityRecord;
  /** Routers are not asked over HTTP. */
  readonly http?: ConnectivityRecord;
}

export interface NodeHealthRecord {
  readonly name: string;
  readonly cluster: string;
  /** Of its primary addresses: all of them fine; one at least fails; one is blocked, none fails; else not known. */
  readonly state: 'reachable' | 'unreachable' | 'blocked' | 'unknown';
  readonly addresses: readonly AddressHealthRecord[];
}

/** All nodes in short. */
export interface NodeHealthSummary {
  /** Beginning and end of the last round that is over; absent before the first. */
  readonly begunAt?: number;
  readonly probedAt?: number;
  readonly nodes: number;
  readonly reachable: number;
  readonly unreachable: number;
  readonly blocked: number;
  readonly unknown: number;
  /** Addresses on which this machine answers probes. */
  readonly answersOn: readonly string[];
  /** Probes of other nodes that this machine's policy does not let in, each with the reason. */
  readonly refuses: readonly string[];
}
