import type { Health } from '../api/health.ts';
import { Backoff } from '../core/backoff.ts';
import { MeshError, messageOf } from '../core/errors.ts';
import { type JobGroup, sleep } from '../core/job.ts';
import type { Datapath } from '../datapath/datapath.ts';
import type { DesiredChanges, DesiredState } from '../datapath/desired.ts';
import { collectGarbage, releaseProgram } from '../host/memory.ts';
import type { Log } from '../observe/log.ts';
import type { Metrics } from '../observe/metrics.ts';
import { Reconciler } from './reconciler.ts';

export interface EnforcementOptions {
  readonly datapath: Datapath;
  readonly jobs: JobGroup;
  readonly desired: DesiredState;
  readonly health: Health;
  readonly log: Log;
  readonly metrics: Metrics;
  /** Drains the feeds; must not do I/O. */
  readonly collect: () => DesiredChanges;
  /** The data path can be used from now on. */
  readonly onOpened: () => void;
  /** A change set is in the kernel; `changed`: it made a difference. */
  readonly onApplied: (changed: boolean) => void;
  /** A foreign hand changed what is ours; it is being restored. */
  readonly onDrift: (what: string) => void;
}

const SETTLE_MS = [1_000, 10_000];

/** The kernel's side of the agent: opens the data path, however long that takes, keeps it as desired, heals and reports. */
export class Enforcement {
  readonly datapath: Datapath;
  readonly reconciler: Reconciler;
  readonly #options: EnforcementOptions;
  #usable = false;
  #settled = false;
  #report = { added: 0, removed: 0, tookMs: 0, cut: 0 };

  constructor(options: EnforcementOptions) {
    const { log, metrics } = options;
    this.#options = options;
    this.datapath = options.datapath;
    this.reconciler = new Reconciler({
      collect: options.collect,
      apply: (changes) => this.#apply(changes),
      onApplied: (_tookMs, delayMs) => this.#applied(delayMs),
      onFailed: (error, attempt) => {
        metrics.applyFailed(error instanceof MeshError ? error.code : 'none');
        // Once, not at every try: `status` shows that it lasts.
        if (attempt === 1) log.warn('a change set was not applied and is tried again', { error });
        else log.debug('a change set was not applied', { error, attempt });
      },
    });
  }

  /** The data path is open. */
  get usable(): boolean {
    return this.#usable;
  }

  start(): void {
    const { jobs } = this.#options;
    jobs.start('data path', (signal) => this.#openDatapath(signal));
    jobs.start('reconcile', (signal) => this.reconciler.run(signal));
  }

  async #openDatapath(signal: AbortSignal): Promise<void> {
    const { health, log, onDrift, onOpened } = this.#options;
    const backoff = new Backoff({ minMs: 500, maxMs: 30_000 });
    this.datapath.onDrift((what) => {
      log.warn('what is ours in the kernel was changed: restoring', { what });
      onDrift(what);
      this.reconciler.add({ everything: true });
    });
    while (!signal.aborted) {
      try {
        await this.datapath.open();
        this.#usable = true;
        health.settle('datapath/open', '', undefined);
        onOpened();
        return;
      } catch (error) {
        const code = error instanceof MeshError ? error.code : 'DPN-RULES';
        health.settle('datapath/open', '', { code, text: messageOf(error) });
        await sleep(backoff.next(), signal);
      }
    }
  }

  async #apply(changes: DesiredChanges): Promise<void> {
    this.#report = await this.datapath.apply(this.#options.desired, changes);
  }

  #applied(delayMs: number): void {
    if (!this.#settled) {
      this.#settled = true;
      this.#options.jobs.start('settle', (signal) => settle(signal));
    }
    const { added, removed, tookMs, cut } = this.#report;
    this.#options.onApplied(added + removed > 0);
    this.#options.metrics.applied({ ...this.#report, delayMs });
    if (added + removed + cut > 0)
      this.#options.log.debug('kernel changed', { added, removed, cut, tookMs: Math.round(tookMs) });
  }
}

/** The start is over: what it needed is given back, once the first changes that follow have passed. */
async function settle(signal: AbortSignal): Promise<void> {
  for (const wait of SETTLE_MS) {
    await sleep(wait, signal);
    if (!signal.aborted) await collectGarbage();
  }
  if (!signal.aborted) releaseProgram();
}
