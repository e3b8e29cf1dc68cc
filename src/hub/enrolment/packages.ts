import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { MeshError, messageOf } from '../../core/errors.ts';

/** Of the whole list: `<sha256>  <name>`, a line for each file, lower versions first. */
export const CHECKSUMS = 'SHA256SUMS';
const NAME = /^[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}$/;
const MAX_FILES = 500;

export interface PackageFile {
  readonly file: FileHandle;
  readonly size: number;
  readonly modifiedAt: number;
}

/** Files that the hub hands out to machines: those in one folder, and nothing that lies elsewhere. */
export class Packages {
  readonly #folder: string;
  /** By name: what was hashed, and the hash. A file with another time, size or inode is another file. */
  readonly #hashes = new Map<string, { readonly stamp: string; readonly hash: string }>();
  #running: Promise<string> | undefined;

  constructor(folder: string) {
    this.#folder = folder;
  }

  /** A plain file of the folder, for reading; undefined when there is none of this name. The caller closes it. */
  async open(name: string): Promise<PackageFile | undefined> {
    if (!NAME.test(name) || name === CHECKSUMS) return undefined;
    let file: FileHandle;
    try {
      // A link could lead out of the folder, a pipe would never answer.
      file = await open(join(this.#folder, name), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    } catch (cause) {
      if (['ENOENT', 'ELOOP', 'ENXIO', 'ENOTDIR'].includes((cause as NodeJS.ErrnoException).code ?? ''))
        return undefined;
      throw new MeshError('HUB-PACKAGES', messageOf(cause), { place: join(this.#folder, name), cause });
    }
    const facts = await file.stat();
    if (facts.isFile()) return { file, size: facts.size, modifiedAt: facts.mtimeMs };
    await file.close();
    return undefined;
  }

  /** The text of `SHA256SUMS`. Many that ask at once cause one look. @throws MeshError HUB-PACKAGES */
  checksums(): Promise<string> {
    this.#running ??= this.#read().finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  async #read(): Promise<string> {
    let names: string[];
    try {
      names = await readdir(this.#folder);
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return '';
      throw new MeshError('HUB-PACKAGES', messageOf(cause), { place: this.#folder, cause });
    }
    const order = new Intl.Collator('en', { numeric: true }).compare;
    const lines: string[] = [];
    for (const name of names
      .filter((each) => NAME.test(each))
      .sort(order)
      .slice(0, MAX_FILES)) {
      const hash = await this.#hash(name);
      if (hash !== undefined) lines.push(`${hash}  ${name}\n`);
    }
    for (const name of this.#hashes.keys()) if (!names.includes(name)) this.#hashes.delete(name);
    return lines.join('');
  }

  async #hash(name: string): Promise<string | undefined> {
    const found = await this.open(name);
    if (found === undefined) return undefined;
    const { file } = found;
    try {
      const { size, mtimeMs, ino } = await file.stat();
      const stamp = `${size} ${mtimeMs} ${ino}`;
      const known = this.#hashes.get(name);
      if (known?.stamp === stamp) return known.hash;
      const sum = createHash('sha256');
      for await (const chunk of file.createReadStream({ autoClose: false })) sum.update(chunk as Buffer);
      const hash = sum.digest('hex');
      this.#hashes.set(name, { stamp, hash });
      return hash;
    } finally {
      await file.close();
    }
  }
}
