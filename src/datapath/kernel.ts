import { Backoff } from '../core/backoff.ts';
import { messageOf } from '../core/errors.ts';
import { parsePrefix } from '../core/ip.ts';
import { OneByOne } from '../core/one-by-one.ts';
import { DatapathAround } from './around.ts';
import type { ApplyReport, Datapath, DatapathStatus, KernelAddress } from './datapath.ts';
import type { DesiredChanges, DesiredState } from './desired.ts';
import type { Overlay } from './overlay/overlay.ts';
import { Pacer } from './overlay/pacer.ts';

export interface KernelDatapathOptions {
  readonly policy: Datapath;
  readonly overlay: Overlay;
  readonly log?: { warn(facts: object, message: string): void };
}

/**
 * Policy and overlay as one data path, in an order that never leads packets where no rule waits for them:
 *
 *   overlay.prepare    the device is there
 *   policy.apply       the rules know it
 *   overlay.apply      routes lead to it
 *
 * The overlay never holds the policy back: when it fails, `apply` resolves, `status.overlay` tells the error, and the
 * overlay is tried again with backoff, by itself.
 */
export class KernelDatapath extends DatapathAround {
  readonly #overlay: Overlay;
  readonly #log: KernelDatapathOptions['log'];
  readonly #backoff = new Backoff({ minMs: 200, maxMs: 30_000 });
  #listener: (what: string) => void = () => undefined;
  #desired: DesiredState | undefined;
  /** The overlay must compare everything, since it missed changes. */
  #behind = true;
  #retry: NodeJS.Timeout | undefined;
  /** One after the other: the caller's changes and our own retries. */
  readonly #turns = new OneByOne();
  #closed = false;

  constructor(options: KernelDatapathOptions) {
    super(options.policy);
    this.#overlay = options.overlay;
    this.#log = options.log;
  }

  override async open(): Promise<void> {
    await this.inner.open();
    await this.#overlay.open();
    this.inner.onDrift((what) => this.#listener(what));
    this.#overlay.onDrift((what) => {
      // A waiting retry would answer too late.
      this.#backoff.reset();
      this.#settleRetry();
      this.#listener(what);
    });
  }

  override apply(desired: DesiredState, changes: DesiredChanges): Promise<ApplyReport> {
    return this.#turns.run(() => this.#apply(desired, changes));
  }

  async #apply(desired: DesiredState, changes: DesiredChanges): Promise<ApplyReport> {
    const start = performance.now();
    this.#desired = desired;
    // While it waits for its next try the overlay is left alone: policy changes must not wait for it each time.
    const waits = this.#retry !== undefined && desired.overlay !== undefined;
    if (waits) this.#behind = true;
    const prepared = !waits && (await this.#attempt(() => this.#overlay.prepare(desired)));
    const report = await this.inner.apply(desired, changes);
    const routes = prepared ? await this.#applyOverlay(desired, changes) : { added: 0, removed: 0 };
    return {
      added: report.added + routes.added,
      removed: report.removed + routes.removed,
      cut: report.cut,
      tookMs: performance.now() - start,
    };
  }

  async #applyOverlay(desired: DesiredState, changes: DesiredChanges): Promise<{ added: number; removed: number }> {
    const result = { added: 0, removed: 0 };
    const applied = await this.#attempt(async () => {
      const everything = this.#behind || changes.everything === true;
      const { added, removed, refused } = await this.#overlay.apply(desired, everything ? { everything } : changes);
      this.#behind = false;
      result.added = added;
      result.removed = removed;
      if (refused > 0) this.#scheduleRetry();
      else this.#backoff.reset();
    });
    if (!applied) this.#behind = true;
    return result;
  }

  async #attempt(work: () => Promise<void>): Promise<boolean> {
    try {
      await work();
      return true;
    } catch (error) {
      this.#behind = true;
      this.#log?.warn({ error: messageOf(error) }, 'the overlay failed and is tried again');
      this.#scheduleRetry();
      return false;
    }
  }

  #scheduleRetry(): void {
    if (this.#closed) return;
    this.#retry ??= setTimeout(() => {
      this.#settleRetry();
      void this.#turns.run(() => this.#tryAgain());
    }, this.#backoff.next()).unref();
  }

  #settleRetry(): void {
    clearTimeout(this.#retry);
    this.#retry = undefined;
  }

  async #tryAgain(): Promise<void> {
    const desired = this.#desired;
    if (this.#closed || desired === undefined || this.#retry !== undefined) return;
    if (!(await this.#attempt(() => this.#overlay.prepare(desired)))) return;
    try {
      // The device may be another one than the rules know.
      await this.inner.apply(desired, { overlay: true });
    } catch (error) {
      this.#behind = true;
      this.#listener(`rules for the overlay failed: ${messageOf(error)}`);
      return;
    }
    await this.#applyOverlay(desired, {});
  }

  override async dumpAddresses(): Promise<KernelAddress[]> {
    const addresses = await this.inner.dumpAddresses();
    const endpoints = await this.#overlay.tunnelEndpoints();
    if (endpoints.size === 0) return addresses;
    const pacer = new Pacer();
    for (const [index, address] of addresses.entries()) {
      if (pacer.due) await pacer.pause();
      const prefix = parsePrefix(address.prefix);
      const tunnelEndpoint = prefix === undefined ? undefined : endpoints.find(prefix);
      if (tunnelEndpoint !== undefined) addresses[index] = { ...address, tunnelEndpoint };
    }
    return addresses;
  }

  override get status(): DatapathStatus {
    return { ...this.inner.status, overlay: this.#overlay.status };
  }

  override onDrift(listener: (what: string) => void): void {
    this.#listener = listener;
  }

  /** Routes first, then rules; a failure of the one does not keep the other. */
  override remove(): Promise<void> {
    return this.#turns.run(async () => {
      this.#settleRetry();
      this.#desired = undefined;
      this.#behind = true;
      const results = [await settled(this.#overlay.remove()), await settled(this.inner.remove())];
      for (const result of results) if (result.status === 'rejected') throw result.reason;
    });
  }

  override async close(): Promise<void> {
    this.#closed = true;
    this.#settleRetry();
    await this.#turns.idle();
    await this.#overlay.close();
    await this.inner.close();
  }
}

async function settled(work: Promise<void>): Promise<PromiseSettledResult<void>> {
  const [result] = await Promise.allSettled([work]);
  return result;
}
