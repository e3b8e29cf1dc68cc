import { messageOf } from '../../core/errors.ts';
import { isUdp, type Moved } from './writer.ts';

/** Least time between two looks; the second finds flows that were being made during the first. */
const INTERVAL_MS = 1000;

export interface LooksOptions {
  /**
   * Looks at all flows for those to the frontends that are named (family and bytes, `frontendName`). @returns false when some
   * may have been missed
   */
  readonly look: (wanted: ReadonlySet<string>) => Promise<boolean>;
  /** Told once, until it works again. */
  readonly onError: (message: string) => void;
}

export const frontendName = (family: 4 | 6, bytes: string): string => `${family}${bytes}`;

/**
 * When to look for UDP flows to a frontend that leads elsewhere now: they have no end of their own, and would stay with a
 * target that is gone for as long as the client sends. Connections of TCP and SCTP stay with theirs as long as it answers.
 */
export class FlowLooks {
  readonly #options: LooksOptions;
  #moved = new Set<string>();
  #again = new Set<string>();
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> | undefined;
  #nextAt = 0;
  /** The last look failed, and that was told. */
  #failed = false;
  #closed = false;

  constructor(options: LooksOptions) {
    this.#options = options;
  }

  changed(moved: readonly Moved[]): void {
    for (const each of moved) if (isUdp(each)) this.#moved.add(frontendName(each.family, each.frontend));
    if (this.#moved.size > 0) this.#schedule();
  }

  /** Looks, though nothing has changed. */
  soon(): void {
    this.#schedule();
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#running;
  }

  #schedule(): void {
    if (this.#closed || this.#running !== undefined) return;
    this.#timer ??= setTimeout(
      () => {
        this.#timer = undefined;
        this.#running = this.#look().finally(() => {
          this.#running = undefined;
          this.#nextAt = Date.now() + INTERVAL_MS;
          if (this.#moved.size + this.#again.size > 0) this.#schedule();
        });
      },
      Math.max(0, this.#nextAt - Date.now()),
    ).unref();
  }

  async #look(): Promise<void> {
    const wanted = new Set([...this.#moved, ...this.#again]);
    this.#again = this.#moved;
    this.#moved = new Set();
    try {
      if (!(await this.#options.look(wanted))) this.#again = wanted;
      this.#failed = false;
    } catch (error) {
      this.#again = wanted;
      if (!this.#closed && !this.#failed) this.#options.onError(messageOf(error));
      this.#failed = true;
    }
  }
}
