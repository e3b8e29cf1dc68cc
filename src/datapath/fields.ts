// Fields of keys as bytes (latin1 strings, so that they can be keys of our own maps): those of the packet filter, and of the
// eBPF maps that have the same content. Network order where nothing else is said, padded to four bytes.

/** Host order, as the kernel keeps marks and what it computes. */
export function markKey(value: number): string {
  return String.fromCharCode(value & 255, (value >>> 8) & 255, (value >>> 16) & 255, value >>> 24);
}

export function byteKey(value: number): string {
  return `${String.fromCharCode(value)}\0\0\0`;
}

export function portKey(port: number, padded = true): string {
  return String.fromCharCode(port >>> 8, port & 255) + (padded ? '\0\0' : '');
}

export function addressKey(words: ArrayLike<number>): string {
  let key = '';
  for (let i = 0; i < words.length; i++) {
    const word = words[i] as number;
    key += String.fromCharCode(word >>> 24, (word >>> 16) & 255, (word >>> 8) & 255, word & 255);
  }
  return key;
}
