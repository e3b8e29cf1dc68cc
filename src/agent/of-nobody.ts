import type { Address } from '../core/ip.ts';

/**
 * Addresses that no cluster can have, whoever announces them: "this network", loopback, link-local (there the metadata of a
 * cloud live), multicast, and what is reserved. A route for one of them would take traffic that never leaves a link.
 */
export function isOfNobody({ family, words }: Address): boolean {
  const word = words[0] as number;
  if (family === 4) {
    const first = word >>> 24;
    return first === 0 || first === 127 || first >= 224 || word >>> 16 === 0xa9fe;
  }
  // fe80::/10 and ff00::/8, and ::/96 with the loopback.
  if (word >>> 22 === 0x3fa || word >>> 24 === 0xff) return true;
  return word === 0 && words[1] === 0 && words[2] === 0;
}
