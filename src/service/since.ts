import type { BackendState } from './backends.ts';

interface Noted {
  readonly state: string;
  readonly since: number;
}

/** Since when each backend is in its state. The only memory of the past; nothing is decided by it. */
export class Since {
  readonly #pools = new Map<string, ReadonlyMap<string, Noted>>();

  note(pool: string, backends: readonly BackendState[], now: number): void {
    const before = this.#pools.get(pool);
    if (backends.length === 0) {
      this.#pools.delete(pool);
      return;
    }
    const noted = new Map<string, Noted>();
    for (const backend of backends) {
      const key = keyOf(backend);
      const state = `${backend.state} ${backend.serving}`;
      const known = before?.get(key);
      noted.set(key, known?.state === state ? known : { state, since: now });
    }
    this.#pools.set(pool, noted);
  }

  of(pool: string, backend: BackendState): number | undefined {
    return this.#pools.get(pool)?.get(keyOf(backend))?.since;
  }
}

const keyOf = ({ cluster, address }: BackendState): string => `${address} ${cluster}`;
