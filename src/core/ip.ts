/**
 * Addresses and prefixes. An address is one (IPv4) or four (IPv6) 32-bit words, most significant first, so that the
 * big tables can keep it in typed arrays. The canonical text is Go's: dotted quad, or lower case, zero-compressed
 * (RFC 5952), no zone, no brackets.
 */
export type Family = 4 | 6;
export type Words = readonly number[];

export interface Address {
  readonly family: Family;
  readonly words: Words;
}

/** `words` never has host bits set. */
export interface Prefix extends Address {
  readonly bits: number;
}

/** An IPv4 address as its word, or -1. Strict: four decimal octets without leading zeros. */
export function parseIpv4(text: string): number {
  let word = 0;
  let octet = -1;
  let dots = 0;
  for (let i = 0; i <= text.length; i++) {
    const code = i < text.length ? text.charCodeAt(i) : 46;
    if (code === 46) {
      if (octet < 0) return -1;
      word = word * 256 + octet;
      octet = -1;
      dots++;
    } else if (code >= 48 && code <= 57) {
      if (octet === 0) return -1;
      octet = (octet < 0 ? 0 : octet * 10) + code - 48;
      if (octet > 255) return -1;
    } else return -1;
  }
  return dots === 4 ? word : -1;
}

/** The four words of an IPv6 address, or undefined. An embedded IPv4 tail is accepted, a zone is not. */
export function parseIpv6(text: string): Words | undefined {
  if (text.length < 2 || text.length > 45) return undefined;
  const halves = text.split('::');
  if (halves.length > 2) return undefined;
  const head = groups(halves[0] ?? '', halves.length === 1);
  const tail = halves.length === 2 ? groups(halves[1] ?? '', true) : [];
  if (head === undefined || tail === undefined) return undefined;
  const missing = 8 - head.length - tail.length;
  if (halves.length === 1 ? missing !== 0 : missing < 1) return undefined;
  const all = [...head, ...new Array<number>(missing).fill(0), ...tail];
  return [0, 2, 4, 6].map((i) => (all[i] as number) * 65536 + (all[i + 1] as number));
}

function groups(text: string, last: boolean): number[] | undefined {
  if (text === '') return [];
  const result: number[] = [];
  const parts = text.split(':');
  for (const [index, part] of parts.entries()) {
    if (part.includes('.')) {
      const word = last && index === parts.length - 1 ? parseIpv4(part) : -1;
      if (word < 0) return undefined;
      result.push(Math.floor(word / 65536), word % 65536);
    } else if (/^[0-9a-fA-F]{1,4}$/.test(part)) result.push(Number.parseInt(part, 16));
    else return undefined;
  }
  return result;
}

export function parseAddress(text: string): Address | undefined {
  if (text.includes(':')) {
    const words = parseIpv6(text);
    if (words === undefined) return undefined;
    // Go prints an IPv4-mapped address as IPv4; the kernel sees it as IPv4 too.
    if (words[0] === 0 && words[1] === 0 && words[2] === 0xffff) return { family: 4, words: [words[3] as number] };
    return { family: 6, words };
  }
  const word = parseIpv4(text);
  return word < 0 ? undefined : { family: 4, words: [word] };
}

export function formatIpv4(word: number): string {
  return `${word >>> 24}.${(word >>> 16) & 255}.${(word >>> 8) & 255}.${word & 255}`;
}

export function formatIpv6(words: Words): string {
  const all = words.flatMap((word) => [word >>> 16, word & 0xffff]);
  let best = -1;
  let bestLength = 1;
  for (let i = 0; i < 8; i++) {
    let j = i;
    while (j < 8 && all[j] === 0) j++;
    if (j - i > bestLength) {
      best = i;
      bestLength = j - i;
    }
    if (j > i) i = j;
  }
  const hex = (part: number[]): string => part.map((group) => group.toString(16)).join(':');
  return best < 0 ? hex(all) : `${hex(all.slice(0, best))}::${hex(all.slice(best + bestLength))}`;
}

export function formatAddress(address: Address): string {
  return address.family === 4 ? formatIpv4(address.words[0] as number) : formatIpv6(address.words);
}

export function addressBits(family: Family): 32 | 128 {
  return family === 4 ? 32 : 128;
}

/** The prefix of an address with its host bits cleared. */
export function prefixOf(address: Address, bits: number): Prefix {
  const words = address.words.map((word, index) => {
    const keep = Math.min(32, Math.max(0, bits - index * 32));
    return keep === 0 ? 0 : (word & (0xffffffff << (32 - keep))) >>> 0;
  });
  return { family: address.family, words, bits };
}

/** `a.b.c.d/n`, an IPv6 prefix, or a plain address (its full length). Host bits are cleared. */
export function parsePrefix(text: string): Prefix | undefined {
  const slash = text.indexOf('/');
  const address = parseAddress(slash < 0 ? text : text.slice(0, slash));
  if (address === undefined) return undefined;
  const max = addressBits(address.family);
  if (slash < 0) return { ...address, bits: max };
  const bitsText = text.slice(slash + 1);
  if (!/^(0|[1-9][0-9]{0,2})$/.test(bitsText)) return undefined;
  const bits = Number(bitsText);
  return bits > max ? undefined : prefixOf(address, bits);
}

/** Always with the length: `10.0.0.1/32`. */
export function formatPrefix(prefix: Prefix): string {
  return `${formatAddress(prefix)}/${prefix.bits}`;
}

export function contains(outer: Prefix, inner: Prefix): boolean {
  if (outer.family !== inner.family || outer.bits > inner.bits) return false;
  const cut = prefixOf(inner, outer.bits);
  return cut.words.every((word, index) => word === outer.words[index]);
}
