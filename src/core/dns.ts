/** What both sides of DNS share (RFC 1035): numbers, and names on the wire. */
export const DNS_TYPE = { a: 1, ns: 2, cname: 5, soa: 6, hinfo: 13, aaaa: 28, srv: 33, opt: 41, any: 255 } as const;
export const DNS_CLASS_IN = 1;
/** Bytes of the fixed header. */
export const DNS_HEADER = 12;

const MAX_NAME = 255;

export interface DnsCursor {
  at: number;
}

/**
 * A name with its compression pointers, which may only lead backwards: so every name ends. Labels are lower case, a
 * character for each byte, which may be any but upper case; the root has none. The cursor moves behind the name.
 * Undefined for nonsense.
 */
export function readDnsName(data: Buffer, cursor: DnsCursor): readonly string[] | undefined {
  const labels: string[] = [];
  let at = cursor.at;
  let limit = at;
  let jumped = false;
  // The root's byte counts, too.
  let length = 1;
  for (;;) {
    const size = data[at];
    if (size === undefined) return undefined;
    if (size === 0) {
      if (!jumped) cursor.at = at + 1;
      return labels;
    }
    if ((size & 0xc0) === 0xc0) {
      const low = data[at + 1];
      if (low === undefined) return undefined;
      const target = ((size & 0x3f) << 8) | low;
      if (target >= limit) return undefined;
      if (!jumped) cursor.at = at + 2;
      jumped = true;
      limit = target;
      at = target;
      continue;
    }
    if (size > 63 || at + 1 + size > data.length) return undefined;
    length += size + 1;
    if (length > MAX_NAME) return undefined;
    labels.push(lowerCase(data.toString('latin1', at + 1, at + 1 + size)));
    at += 1 + size;
  }
}

/** Names do not tell the case of ASCII letters apart, and that of no others (RFC 4343). */
function lowerCase(label: string): string {
  return label.replace(/[A-Z]+/g, (letters) => letters.toLowerCase());
}
