import type { Socket } from 'node:net';

export interface CrowdLimitOptions {
  readonly total: number;
  readonly perSource: number;
}

/** Keeps the connections of strangers few: of one source, and of all, the oldest makes room for a new one. */
export class CrowdLimit {
  readonly #options: CrowdLimitOptions;
  /** In order of arrival. */
  readonly #all = new Set<Socket>();
  readonly #bySource = new Map<string, Set<Socket>>();

  constructor(options: CrowdLimitOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#all.size;
  }

  admit(socket: Socket): void {
    const source = socket.remoteAddress ?? '';
    const own = this.#bySource.get(source) ?? new Set<Socket>();
    if (own.size >= this.#options.perSource) this.#drop(own);
    else if (this.#all.size >= this.#options.total) this.#drop(this.#all);
    this.#bySource.set(source, own.add(socket));
    this.#all.add(socket);
    socket.once('close', () => this.#forget(socket, source, own));
  }

  #drop(from: ReadonlySet<Socket>): void {
    const [oldest] = from;
    // 'close' comes later, and the place is needed now.
    if (oldest === undefined) return;
    this.#all.delete(oldest);
    for (const own of this.#bySource.values()) if (own.delete(oldest)) break;
    oldest.destroy();
  }

  #forget(socket: Socket, source: string, own: Set<Socket>): void {
    this.#all.delete(socket);
    own.delete(socket);
    if (own.size === 0 && this.#bySource.get(source) === own) this.#bySource.delete(source);
  }
}
