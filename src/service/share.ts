import { fingerprint } from '../core/fingerprint.ts';
import type { PortsByAddress, ServicePort } from '../kvstore/codec/service.ts';
import { MAX_TARGETS } from './result.ts';

/**
 * The share of one machine in too many items: those with the highest scores for this machine (rendezvous hashing). Machines
 * have different shares, so that together they use all items evenly; one item more or less changes one place of a share.
 * In the order of the items.
 */
export function shareOf<T>(items: readonly T[], limit: number, name: (item: T) => string, machine: string): T[] {
  if (items.length <= limit) return [...items];
  const scores = Uint32Array.from(items, (item) => fingerprint(`${machine}\0${name(item)}`));
  // A sorted copy of numbers costs a tenth of sorting the items.
  const least = scores.toSorted()[items.length - limit] ?? 0;
  let ties = limit - scores.reduce((count, score) => count + Number(score > least), 0);
  return items.filter((_, index) => {
    const score = scores[index] ?? 0;
    return score > least || (score === least && ties-- > 0);
  });
}

export type BackendEntries = readonly (readonly [address: string, ports: readonly ServicePort[]])[];

/** Of the maps that were too large; they are never changed. */
const known = new WeakMap<PortsByAddress, { readonly machine: string; readonly share: BackendEntries }>();

/**
 * The backends of one cluster that this machine looks at: all, or as many as it could use. A hundred thousand of them, of
 * which it can use a part, are not worth half a second for every change.
 */
export function consideredOf(backends: PortsByAddress, machine: string): BackendEntries {
  if (backends.size <= MAX_TARGETS) return [...backends];
  const before = known.get(backends);
  if (before?.machine === machine) return before.share;
  const share = shareOf([...backends], MAX_TARGETS, ([address]) => address, machine);
  known.set(backends, { machine, share });
  return share;
}
