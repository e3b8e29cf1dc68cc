/**
 * The share of one machine in too many items: those with the highest scores for this machine (rendezvous hashing). Machines
 * have different shares, so that together they use all items evenly; one item more or less changes one place of a share.
 */
export function shareOf<T>(items: readonly T[], limit: number, score: (item: T) => string, machine: string): T[] {
  if (items.length <= limit) return [...items];
  return items
    .map((item, index) => ({ item, index, hash: fingerprint(`${machine}\0${score(item)}`) }))
    .sort((a, b) => b.hash - a.hash || a.index - b.index)
    .slice(0, limit)
    .sort((a, b) => a.index - b.index)
    .map(({ item }) => item);
}

/** FNV-1a, stirred at the end: names that differ in their last letter must not lie side by side. */
function fingerprint(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
