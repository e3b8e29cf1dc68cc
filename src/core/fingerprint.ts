/**
 * 32 bits of a text, the same on every machine: FNV-1a, stirred at the end, since texts that differ in their last letter must
 * not lie side by side. For spreading things, never against somebody who chooses the texts.
 */
export function fingerprint(text: string, seed = 0): number {
  let hash = 0x811c9dc5 ^ seed;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return stir(hash);
}

/** Another number for each number, near ones far apart. */
export function stir(number: number): number {
  let hash = Math.imul(number ^ (number >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
