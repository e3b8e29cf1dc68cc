/** What a key of a map of longest prefixes says, and how wide it is. */
export interface Nested {
  readonly key: string;
  readonly bits: number;
  readonly value: number;
}

/**
 * What the next wider entry says: of a longest prefix that is on its way in this is what counts before, of one on its way
 * out what counts afterwards, since packets find the entry all the while.
 */
export class Cover<Entry extends Nested> {
  readonly #entries: ReadonlyMap<string, Entry>;
  readonly #widths: readonly number[];
  readonly #widen: (key: string, bits: number) => string;

  /** `widen` gives the key of fewer bits around a key. */
  constructor(entries: ReadonlyMap<string, Entry>, widen: (key: string, bits: number) => string) {
    this.#entries = entries;
    this.#widths = [...new Set([...entries.values()].map(({ bits }) => bits))].sort((a, b) => b - a);
    this.#widen = widen;
  }

  /** 0 for nothing. */
  around({ key, bits }: Pick<Nested, 'key' | 'bits'>): number {
    for (const width of this.#widths) {
      if (width >= bits) continue;
      const found = this.#entries.get(this.#widen(key, width));
      if (found !== undefined) return found.value;
    }
    return 0;
  }
}

/** Keeps the first `bits` of the bytes behind the length (four bytes, in front), and writes the new length. */
export function widenKey(key: string, bits: number): string {
  const bytes = Buffer.from(key, 'latin1');
  bytes.writeUInt32LE(bits, 0);
  for (let at = 4; at < bytes.length; at++) {
    const kept = Math.min(8, Math.max(0, bits - (at - 4) * 8));
    bytes[at] = (bytes[at] as number) & (0xff00 >> kept) & 255;
  }
  return bytes.toString('latin1');
}
