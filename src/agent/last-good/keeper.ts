import type { Health } from '../../api/health.ts';
import { messageOf } from '../../core/errors.ts';
import type { DesiredState } from '../../datapath/desired.ts';
import { build } from '../../host/build.ts';
import type { Registered } from '../../mesh/registration.ts';
import { capture } from './capture.ts';
import type { Head } from './content.ts';
import { FORMAT } from './file.ts';
import { type LastGoodPlace, machineMark } from './place.ts';

export interface KeeperOptions {
  readonly place: LastGoodPlace;
  readonly name: string;
  readonly desired: DesiredState;
  readonly registered: () => Registered | undefined;
  /** All facts are those that the stores have now. */
  readonly fresh: () => boolean;
  readonly health: Health;
  readonly timing?: { readonly settleMs?: number; readonly confirmMs?: number };
}

/** After the first change of many. */
const SETTLE_MS = 5_000;
const CONFIRM_MS = 60_000;
/** Large snapshots of a busy mesh are written less often: bytes per second on average. */
const WRITE_RATE = 512 << 10;

/**
 * Keeps the last-good snapshot: a while after the kernel was changed, what it ought to hold is written down, off the way of
 * the changes. Together with `restoreLastGood` this is what a machine enforces when it boots without a store.
 */
export class LastGoodKeeper {
  readonly #options: KeeperOptions;
  #timer: NodeJS.Timeout | undefined;
  readonly #confirmTimer: NodeJS.Timeout;
  #saving: Promise<void> | undefined;
  #unsaved = false;
  #savedAt: number | undefined;
  #confirmedAt = 0;
  #bytes = 0;
  #nextAt = 0;
  #closed = false;

  constructor(options: KeeperOptions) {
    this.#options = options;
    const { confirmMs = CONFIRM_MS } = options.timing ?? {};
    this.#confirmTimer = setInterval(() => void this.#confirm(), confirmMs).unref();
  }

  /** Of the last snapshot of this run; milliseconds since the epoch. */
  get times(): { readonly savedAt: number; readonly confirmedAt: number } | undefined {
    return this.#savedAt === undefined ? undefined : { savedAt: this.#savedAt, confirmedAt: this.#confirmedAt };
  }

  /** The kernel holds what is desired; `changed`: it did not before. */
  applied(changed: boolean): void {
    if (this.#closed || (!changed && this.#savedAt !== undefined)) return;
    this.#unsaved = true;
    this.#schedule();
  }

  /** Writes what is not written yet. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    clearInterval(this.#confirmTimer);
    await this.#saving;
    if (this.#unsaved) await this.#save();
    else await this.#confirm();
  }

  #schedule(): void {
    if (this.#closed || this.#saving !== undefined || this.#timer !== undefined) return;
    const { settleMs = SETTLE_MS } = this.#options.timing ?? {};
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        this.#saving = this.#save().finally(() => {
          this.#saving = undefined;
          if (this.#unsaved) this.#schedule();
        });
      },
      Math.max(settleMs, this.#nextAt - performance.now()),
    ).unref();
  }

  async #save(): Promise<void> {
    const { place, name, desired, registered, health } = this.#options;
    this.#unsaved = false;
    const now = Date.now();
    const cluster = registered()?.cluster.name ?? '';
    const head: Head = { format: FORMAT, version: build.version, name, cluster, machine: machineMark(), savedAt: now };
    this.#bytes = 0;
    try {
      await place.write(this.#counted(capture({ desired, head, registered: registered() })));
      this.#savedAt = now;
      this.#confirmedAt = now;
      health.clear('state/last-good', 'AGT-LASTGOOD');
    } catch (error) {
      // As good as before for now; a machine that boots without a store would enforce something older.
      this.#unsaved = true;
      health.check('state/last-good', 'AGT-LASTGOOD', { text: messageOf(error), severity: 'warning' });
    }
    this.#nextAt = performance.now() + (this.#bytes / WRITE_RATE) * 1000;
  }

  async *#counted(pieces: AsyncIterable<Buffer>): AsyncIterable<Buffer> {
    for await (const piece of pieces) {
      this.#bytes += piece.length;
      yield piece;
    }
  }

  async #confirm(): Promise<void> {
    const { place, fresh } = this.#options;
    if (this.#savedAt === undefined || this.#unsaved || this.#saving !== undefined || !fresh()) return;
    this.#confirmedAt = Date.now();
    await place.confirm(this.#confirmedAt);
  }
}
