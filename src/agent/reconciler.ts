import { Backoff } from '../core/backoff.ts';
import { sleep } from '../core/job.ts';
import type { DesiredChanges } from '../datapath/desired.ts';
import { PendingChanges } from './pending-changes.ts';

/** What the loop calls; all of it belongs to the agent. */
export interface ReconcilerHooks {
  /**
   * Drains the feeds into the model and says where the desired state changed. Must not do I/O. What it throws ends the loop:
   * what was drained by then is not known to anybody any more.
   */
  collect(): DesiredChanges;
  /** Brings the kernel there. */
  apply(changes: DesiredChanges): Promise<void>;
  onApplied(tookMs: number, delayMs: number): void;
  onFailed(error: unknown, attempt: number): void;
}

/** How long changes gather before they are applied, milliseconds: one netlink transaction then serves them all. */
const GATHER_MS = 4;

/**
 * The one loop between facts and kernel. `wake` says that something changed; the loop gathers for a few milliseconds,
 * collects once and applies once. While an apply runs, further changes gather for the next. A failed change set is kept
 * and tried again with backoff, together with what came meanwhile. Nothing is applied before `open`.
 */
export class Reconciler {
  readonly #hooks: ReconcilerHooks;
  readonly #pending = new PendingChanges();
  readonly #backoff = new Backoff({ minMs: 100, maxMs: 30_000 });
  #open = false;
  #dirtySince: number | undefined;
  #applying = false;
  #wakeUp: (() => void) | undefined;

  constructor(hooks: ReconcilerHooks) {
    this.#hooks = hooks;
  }

  get opened(): boolean {
    return this.#open;
  }

  /** Milliseconds since the oldest change that is not applied yet. */
  get lagMs(): number {
    return this.#dirtySince === undefined ? 0 : performance.now() - this.#dirtySince;
  }

  /** Something is not in the kernel yet, or is on its way there. */
  get busy(): boolean {
    return this.#dirtySince !== undefined || this.#applying;
  }

  /** From now on the kernel follows; the first round compares everything. */
  open(): void {
    if (this.#open) return;
    this.#open = true;
    this.add({ everything: true });
  }

  add(changes: DesiredChanges): void {
    this.#pending.add(changes);
    this.wake();
  }

  wake(): void {
    this.#dirtySince ??= performance.now();
    if (!this.#open) return;
    this.#wakeUp?.();
    this.#wakeUp = undefined;
  }

  async run(signal: AbortSignal): Promise<void> {
    signal.addEventListener('abort', () => this.#wakeUp?.(), { once: true });
    while (!signal.aborted) {
      if (this.#dirtySince === undefined || !this.#open) await new Promise<void>((resolve) => (this.#wakeUp = resolve));
      if (signal.aborted) return;
      await sleep(GATHER_MS, signal);
      await this.#round(signal);
    }
  }

  async #round(signal: AbortSignal): Promise<void> {
    const since = this.#dirtySince ?? performance.now();
    this.#dirtySince = undefined;
    const start = performance.now();
    this.#pending.add(this.#hooks.collect());
    if (this.#pending.empty) return;
    const changes = this.#pending.take();
    this.#applying = true;
    try {
      await this.#hooks.apply(changes);
      this.#backoff.reset();
      this.#hooks.onApplied(performance.now() - start, performance.now() - since);
    } catch (error) {
      this.#pending.add(changes);
      this.#dirtySince = since;
      this.#hooks.onFailed(error, this.#backoff.failures + 1);
      await sleep(this.#backoff.next(), signal);
    } finally {
      this.#applying = false;
    }
  }
}
