import type { AddressHealthRecord, ConnectivityRecord, NodeHealthRecord } from '../../api/node-health-types.ts';
import type { Target } from './targets.ts';

export type ProbeKind = 'icmp' | 'http';

/** What one probe found. */
export type Finding =
  | { readonly state: 'ok'; readonly latencyMs: number }
  | { readonly state: 'failed' | 'blocked' | 'unknown'; readonly reason: string };

export interface ProbedAddress {
  readonly target: Target;
  readonly icmp: ConnectivityRecord;
  readonly http: ConnectivityRecord;
  /** Probes in a row that failed, of either kind. */
  readonly failures: number;
}

const UNKNOWN: ConnectivityRecord = { state: 'unknown', reason: 'not probed yet' };

/** The last findings by node and address. What a node no longer announces is forgotten. */
export class ProbeResults {
  readonly #byNode = new Map<string, Map<string, ProbedAddress>>();

  /** The node is probed at these addresses from now on; none forgets it. */
  retain(node: string, targets: readonly Target[]): void {
    const before = this.#byNode.get(node);
    if (targets.length === 0) {
      this.#byNode.delete(node);
      return;
    }
    const next = new Map<string, ProbedAddress>();
    for (const target of targets) {
      const known = before?.get(target.ip);
      next.set(
        target.ip,
        known === undefined ? { target, icmp: UNKNOWN, http: UNKNOWN, failures: 0 } : { ...known, target },
      );
    }
    this.#byNode.set(node, next);
  }

  /** Nothing when the address is no longer the node's. */
  put(node: string, ip: string, found: { readonly icmp: Finding; readonly http: Finding | undefined }): void {
    const addresses = this.#byNode.get(node);
    const before = addresses?.get(ip);
    if (addresses === undefined || before === undefined) return;
    const failed = found.icmp.state === 'failed' || found.http?.state === 'failed';
    addresses.set(ip, {
      target: before.target,
      icmp: recordOf(found.icmp, before.icmp),
      http: found.http === undefined ? before.http : recordOf(found.http, before.http),
      failures: failed ? before.failures + 1 : 0,
    });
  }

  *of(node: string): Iterable<ProbedAddress> {
    yield* this.#byNode.get(node)?.values() ?? [];
  }

  get(node: string, ip: string): ProbedAddress | undefined {
    return this.#byNode.get(node)?.get(ip);
  }

  nodes(): Iterable<string> {
    return this.#byNode.keys();
  }

  stateOf(node: string): NodeHealthRecord['state'] {
    let state: NodeHealthRecord['state'] | undefined;
    for (const { target, icmp, http } of this.#byNode.get(node)?.values() ?? []) {
      if (!target.primary) continue;
      if (icmp.state === 'failed' || http.state === 'failed') return 'unreachable';
      if (icmp.state === 'blocked' || http.state === 'blocked') state = 'blocked';
      // Where echo requests cannot be sent at all, the other half decides.
      const fine = http.state === 'ok' && icmp.probedAt !== undefined;
      if (state !== 'blocked') state = fine && state !== 'unknown' ? 'reachable' : 'unknown';
    }
    return state ?? 'unknown';
  }
}

function recordOf(found: Finding, before: ConnectivityRecord): ConnectivityRecord {
  const probedAt = Date.now();
  if (found.state === 'ok') return { state: 'ok', latencyMs: found.latencyMs, probedAt, okAt: probedAt };
  const { okAt } = before;
  return { state: found.state, reason: found.reason, probedAt, ...(okAt !== undefined && { okAt }) };
}

export function addressRecord({ target, icmp, http }: ProbedAddress): AddressHealthRecord {
  const { ip, kind, primary, path } = target;
  return { ip, kind, primary, path, icmp, ...(kind !== 'router' && { http }) };
}
