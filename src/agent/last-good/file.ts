import { createHash } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { MeshError } from '../../core/errors.ts';

/**
 * The file of the last-good snapshot: what the kernel held when all was well, for a boot without a store.
 *
 *   8 bytes    the magic word, with the version of the format in it
 *   chunks     u32 tag, u32 length of the payload in bytes, payload; all numbers little endian
 *   last chunk tag `end`, SHA-256 of everything before that chunk
 *
 * Rows of the tables are spread over as many chunks of one tag as the writer likes, in any order; `head` comes first.
 */
export const CHUNK = {
  /** JSON, `Head`. */
  head: 1,
  /** Rows of address, identity, tunnel endpoint (index from 1 into `Body.vias`, 0 for none). */
  hosts4: 2,
  /** The same with four words of address. */
  hosts6: 3,
  /** Rows of family << 8 | bits, four words of address, identity. */
  prefixes: 4,
  /** Rows of identity, class. */
  ingress: 5,
  egress: 6,
  /** Rows of family << 8 | bits, four words of address, tunnel endpoint. */
  routes: 7,
  /** JSON, `Body`. */
  body: 8,
  end: 9,
  /** JSON, `off` or a list of `SavedFrontend`; none where services were not known. */
  services: 10,
} as const;
export type Tag = (typeof CHUNK)[keyof typeof CHUNK];

/** Words of a row. */
export const ROW_WORDS: Readonly<Partial<Record<Tag, number>>> = {
  [CHUNK.hosts4]: 3,
  [CHUNK.hosts6]: 6,
  [CHUNK.prefixes]: 6,
  [CHUNK.ingress]: 2,
  [CHUNK.egress]: 2,
  [CHUNK.routes]: 6,
};

export const FORMAT = 1;
const MAGIC = Buffer.from(`MESHLG0${FORMAT}`, 'latin1');
const DIGEST_BYTES = 32;
/** Ten million addresses are 120 MB. */
export const MAX_BYTES = 1 << 28;

/** Hashed between two looks at the event loop. */
const PIECE_BYTES = 1 << 20;

export interface Chunk {
  readonly tag: number;
  readonly payload: Buffer;
}

/** Builds the file piece by piece, so that nothing large is ever in memory at once. */
export class ChunkWriter {
  readonly #hash = createHash('sha256');
  #bytes = 0;

  get bytes(): number {
    return this.#bytes;
  }

  begin(): Buffer {
    return this.#told(MAGIC);
  }

  json(tag: Tag, value: unknown): Buffer {
    return this.#chunk(tag, Buffer.from(JSON.stringify(value)));
  }

  /** `words` is copied. */
  rows(tag: Tag, words: Uint32Array): Buffer {
    return this.#chunk(tag, littleEndian(words));
  }

  end(): Buffer {
    return chunk(CHUNK.end, this.#hash.digest());
  }

  #chunk(tag: Tag, payload: Buffer): Buffer {
    return this.#told(chunk(tag, payload));
  }

  #told(bytes: Buffer): Buffer {
    this.#hash.update(bytes);
    this.#bytes += bytes.length;
    return bytes;
  }
}

function chunk(tag: Tag, payload: Buffer): Buffer {
  const head = Buffer.alloc(8);
  head.writeUInt32LE(tag, 0);
  head.writeUInt32LE(payload.length, 4);
  return Buffer.concat([head, payload]);
}

function littleEndian(words: Uint32Array): Buffer {
  const bytes = Buffer.allocUnsafe(words.length * 4);
  for (let i = 0; i < words.length; i++) bytes.writeUInt32LE(words[i] as number, i * 4);
  return bytes;
}

/**
 * The chunks of a file, after its checksum was found right.
 * @throws MeshError AGT-LASTGOOD: another format, cut off, or damaged
 */
export async function readChunks(file: Buffer): Promise<Chunk[]> {
  const magic = file.subarray(0, MAGIC.length);
  if (!magic.equals(MAGIC)) {
    const ours = magic.subarray(0, 6).equals(MAGIC.subarray(0, 6));
    throw refused(ours ? 'another version of mesh-agent wrote it' : 'it is no snapshot');
  }
  const chunks: Chunk[] = [];
  let at = MAGIC.length;
  while (at + 8 <= file.length) {
    const [tag, length] = [file.readUInt32LE(at), file.readUInt32LE(at + 4)];
    const payload = file.subarray(at + 8, at + 8 + length);
    if (payload.length !== length) break;
    if (tag === CHUNK.end) {
      const whole = at + 8 + length === file.length && length === DIGEST_BYTES;
      if (!whole || !(await digest(file.subarray(0, at))).equals(payload)) throw refused('its checksum is wrong');
      return chunks;
    }
    chunks.push({ tag, payload });
    at += 8 + length;
  }
  throw refused('it is cut off');
}

async function digest(bytes: Buffer): Promise<Buffer> {
  const hash = createHash('sha256');
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
    hash.update(bytes.subarray(at, at + PIECE_BYTES));
    await nextTurn();
  }
  return hash.digest();
}

/** The first chunk alone, unchecked: for telling how old a file is. */
export function readHead(start: Buffer): unknown {
  if (!start.subarray(0, MAGIC.length).equals(MAGIC) || start.length < MAGIC.length + 8) return undefined;
  if (start.readUInt32LE(MAGIC.length) !== CHUNK.head) return undefined;
  const length = start.readUInt32LE(MAGIC.length + 4);
  try {
    return JSON.parse(start.toString('utf8', MAGIC.length + 8, MAGIC.length + 8 + length));
  } catch {
    return undefined;
  }
}

export function refused(detail: string, cause?: unknown): MeshError {
  return new MeshError('AGT-LASTGOOD', detail, cause === undefined ? {} : { cause });
}
