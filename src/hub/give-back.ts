import { sleep } from '../core/job.ts';
import { collectGarbage, releaseProgram } from '../host/memory.ts';

export interface Work {
  /** How much was done, or is kept, by now: a change by `many` is a storm. */
  readonly amount: () => number;
  readonly many: number;
  /** The storm is not over. */
  readonly isBusy: () => boolean;
}

const REST_MS = 10_000;

/** What a storm leaves behind stays for minutes otherwise, up to three times of what is needed: gives it back once it is over. */
export async function giveBack({ amount, many, isBusy }: Work, signal: AbortSignal): Promise<void> {
  let known = 0;
  while (!signal.aborted) {
    await sleep(REST_MS, signal);
    if (signal.aborted || isBusy() || Math.abs(amount() - known) < many) continue;
    known = amount();
    await collectGarbage();
    releaseProgram();
  }
}
