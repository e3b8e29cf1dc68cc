import { join } from 'node:path';
import { pinFolder, pinsIn, removeEmptyFolders } from '../pins.ts';

/**
 * Where the pins of the policy are, in the folder of the network namespace:
 *
 *   policy-DIGEST-NUMBER/   maps and programs of one generation
 *   policy-links/           what is attached where
 */
export class BpfFolder {
  readonly #own: string;

  /** @throws MeshError HST-NO-BPF */
  constructor(fileSystem?: string) {
    this.#own = pinFolder(fileSystem);
  }

  get links(): string {
    return join(this.#own, 'policy-links');
  }

  generation(digest: string, number: number): string {
    return join(this.#own, `policy-${digest}-${number}`);
  }

  /** All generations that are kept, whatever version made them; the newest first. */
  generations(): { readonly path: string; readonly digest: string; readonly number: number }[] {
    const found = pinsIn(this.#own).flatMap((name) => {
      const [, digest, number] = /^policy-([0-9a-f]+)-(\d+)$/.exec(name) ?? [];
      return digest === undefined ? [] : [{ path: join(this.#own, name), digest, number: Number(number) }];
    });
    return found.sort((a, b) => b.number - a.number);
  }

  /** Folders in which nothing is left. */
  removeEmpty(): void {
    removeEmptyFolders(this.#own);
  }
}
