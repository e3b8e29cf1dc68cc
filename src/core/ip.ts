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
  const groups: number[] = [];
  /** How many groups stand before the `::`. */
  let gap = -1;
  let at = 0;
  if (text.startsWith('::')) {
    gap = 0;
    at = 2;
  }
  while (at < text.length) {
    const start = at;
    let group = 0;
    for (let digit = hexDigit(text, at); digit >= 0; digit = hexDigit(text, ++at)) group = group * 16 + digit;
    if (at < text.length && text.charCodeAt(at) === DOT) {
      const word = parseIpv4(text.slice(start));
      if (word < 0) return undefined;
      groups.push(Math.floor(word / 65536), word % 65536);
      break;
    }
    if (at === start || at > start + 4) return undefined;
    groups.push(group);
    if (at === text.length) break;
    if (text.charCodeAt(at) !== COLON || ++at === text.length) return undefined;
    if (text.charCodeAt(at) !== COLON) continue;
    if (gap >= 0) return undefined;
    gap = groups.length;
    at++;
  }
  const missing = 8 - groups.length;
  if (gap < 0 ? missing !== 0 : missing < 1) return undefined;
  const word = (index: number): number => groupAt(groups, gap, index) * 65536 + groupAt(groups, gap, index + 1);
  return [word(0), word(2), word(4), word(6)];
}

const DOT = 46;
const COLON = 58;

/** The value of a hexadecimal digit, or -1. */
function hexDigit(text: string, at: number): number {
  const code = at < text.length ? text.charCodeAt(at) : 0;
  if (code >= 48 && code <= 57) return code - 48;
  const lower = code | 32;
  return lower >= 97 && lower <= 102 ? lower - 87 : -1;
}

/** The group at an index of eight, with zeros for the gap. */
function groupAt(groups: readonly number[], gap: number, index: number): number {
  if (gap < 0 || index < gap) return groups[index] ?? 0;
  const behind = index - 8 + groups.length;
  return behind < gap ? 0 : (groups[behind] ?? 0);
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
  const group = (index: number): number => {
    const word = words[index >> 1] ?? 0;
    return (index & 1) === 0 ? word >>> 16 : word & 0xffff;
  };
  // The longest run of zeros, the first of several, of two at least.
  let best = -1;
  let bestLength = 1;
  for (let i = 0; i < 8; i++) {
    let end = i;
    while (end < 8 && group(end) === 0) end++;
    if (end - i > bestLength) {
      best = i;
      bestLength = end - i;
    }
    if (end > i) i = end;
  }
  let text = '';
  for (let i = 0; i < 8; i++) {
    if (i === best) {
      text += '::';
      i += bestLength - 1;
    } else text += i === 0 || i === best + bestLength ? group(i).toString(16) : `:${group(i).toString(16)}`;
  }
  return text;
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
