/** The format of POSIX.1-1988 (ustar): a header of 512 bytes, then the content, filled up to a multiple of 512. */
const BLOCK = 512;
const FILE_MODE = 0o600;

export interface TarFile {
  /** With its folders; the last 100 bytes begin a part of it, and what is before them has at most 155. */
  readonly name: string;
  readonly content: Buffer;
  /** Milliseconds since the epoch. */
  readonly at: number;
}

/** One file of an archive, with its header. */
export function tarFile({ name, content, at }: TarFile): Buffer {
  const header = Buffer.alloc(BLOCK);
  const field = (offset: number, text: string): void => {
    header.write(text, offset, 'latin1');
  };
  const octal = (value: number, length: number): string => `${value.toString(8).padStart(length - 1, '0')}\0`;
  const [folder, rest] = split(name);
  header.write(rest, 0, 100, 'utf8');
  header.write(folder, 345, 155, 'utf8');
  field(100, octal(FILE_MODE, 8));
  field(108, octal(0, 8));
  field(116, octal(0, 8));
  field(124, octal(content.length, 12));
  field(136, octal(Math.floor(at / 1000), 12));
  // The sum counts its own field as spaces.
  field(148, ' '.repeat(8));
  field(156, '0');
  field(257, 'ustar\0' + '00');
  const sum = header.reduce((total, byte) => total + byte, 0);
  field(148, `${sum.toString(8).padStart(6, '0')}\0 `);
  return Buffer.concat([header, content, Buffer.alloc((BLOCK - (content.length % BLOCK)) % BLOCK)]);
}

/** A name has two fields, which are joined by a slash. Throws for one that fits into none. */
function split(name: string): readonly [folder: string, rest: string] {
  const fits = (text: string, most: number): boolean => Buffer.byteLength(text) <= most;
  if (fits(name, 100)) return ['', name];
  for (let at = name.indexOf('/'); at >= 0; at = name.indexOf('/', at + 1))
    if (fits(name.slice(0, at), 155) && fits(name.slice(at + 1), 100)) return [name.slice(0, at), name.slice(at + 1)];
  throw new Error(`a name of ${name.length} characters is too long for an archive`);
}

/** Two empty blocks. */
export const TAR_END = Buffer.alloc(2 * BLOCK);
