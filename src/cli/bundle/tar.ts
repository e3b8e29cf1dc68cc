/** The format of POSIX.1-1988 (ustar): a header of 512 bytes, then the content, filled up to a multiple of 512. */
const BLOCK = 512;
const FILE_MODE = 0o600;

export interface TarFile {
  /** At most 100 bytes. */
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
  header.write(name, 0, 100, 'utf8');
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

/** Two empty blocks. */
export const TAR_END = Buffer.alloc(2 * BLOCK);
