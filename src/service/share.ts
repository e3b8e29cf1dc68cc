import { fingerprint } from '../core/fingerprint.ts';

/**
 * The share of one machine in too many items: those with the highest scores for this machine (rendezvous hashing). Machines
 * have different shares, so that together they use all items evenly; one item more or less changes one place of a share.
 */
export function shareOf<T>(items: readonly T[], limit: number, name: (item: T) => string, machine: string): T[] {
  if (items.length <= limit) return [...items];
  return items
    .map((item, index) => ({ item, index, score: fingerprint(`${machine}\0${name(item)}`) }))
    .sort((a, b) => b.score - a.score || a.index - b.index)
    .slice(0, limit)
    .sort((a, b) => a.index - b.index)
    .map(({ item }) => item);
}
