import { messageOf } from '../../core/errors.ts';
import { JobGroup, sleep } from '../../core/job.ts';
import { decodeTimeToLive, encodeLeaseId } from '../../kvstore/messages.ts';
import type { HubStore } from '../hub-store.ts';

/** A machine that promised to renew the lease of its registration so often. */
export interface Beating {
  readonly name: string;
  /** Hexadecimal. */
  readonly session: string;
  /** Seconds. */
  readonly beat: number;
  /** As it was found last. */
  readonly silent: boolean;
}

export interface LivenessOptions {
  readonly store: { readonly session: Pick<HubStore['session'], 'request'> };
  readonly machines: () => Iterable<Beating>;
  /** Since when it did not renew, milliseconds since the epoch; undefined: it did. Called for changes alone. */
  readonly onSilent: (name: string, since: number | undefined) => void;
  /** Whether so many are silent at once that none is believed to be; called after each round. */
  readonly onDoubt: (text: string | undefined) => void;
  readonly onProblem: (message: string) => void;
  readonly roundMs?: number;
}

const ROUND_MS = 10_000;
const AT_ONCE = 8;
/** Renewals that may be lost. */
const MISSED = 3;
/** From so many on, and more than half of all: then it is the way to the hub that is broken, and not the machines. */
const MANY = 3;

/**
 * Finds out who went away without a word. A registration lives for a quarter of an hour after its machine, so that neither a
 * restart nor a broken line to the hub makes it vanish for policies; connections must not be led to a dead machine for that
 * long. So machines that are checked renew their leases every few seconds, and the leader asks etcd how long ago that was:
 * nothing is written for it. A new leader of etcd renews all leases by itself, which errs on the side of the machines.
 */
export class Liveness {
  readonly #options: LivenessOptions;
  readonly #jobs: JobGroup;

  constructor(options: LivenessOptions) {
    this.#options = options;
    this.#jobs = new JobGroup((name, error) => options.onProblem(`${name} ended: ${messageOf(error)}`));
  }

  start(): void {
    const { roundMs = ROUND_MS, onProblem } = this.#options;
    this.#jobs.start('liveness', async (signal) => {
      while (!signal.aborted) {
        await sleep(roundMs, signal);
        if (signal.aborted) return;
        // What cannot be asked stays as it was found.
        await this.#round(signal).catch((error: unknown) => onProblem(`leases cannot be read: ${messageOf(error)}`));
      }
    });
  }

  async stop(): Promise<void> {
    await this.#jobs.stop();
    this.#options.onDoubt(undefined);
  }

  async #round(signal: AbortSignal): Promise<void> {
    const { machines, onSilent, onDoubt } = this.#options;
    const all = [...machines()];
    const waiting = [...all];
    const ages = new Map<string, number>();
    const work = async (): Promise<void> => {
      for (let next = waiting.pop(); next !== undefined && !signal.aborted; next = waiting.pop()) {
        const age = await this.#age(next.session);
        if (age !== undefined) ages.set(next.name, age);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    if (signal.aborted) return;
    const isSilent = ({ name, beat }: Beating): boolean => (ages.get(name) ?? 0) > beat * MISSED;
    const silent = all.filter(isSilent);
    const doubtful = silent.length >= MANY && silent.length * 2 > all.length;
    onDoubt(doubtful ? `${silent.length} of ${all.length} machines do not renew their leases` : undefined);
    for (const machine of all) {
      const found = isSilent(machine);
      if (!ages.has(machine.name) || found === machine.silent || (found && doubtful)) continue;
      const age = ages.get(machine.name) ?? 0;
      onSilent(machine.name, found ? Date.now() - age * 1000 : undefined);
    }
  }

  /** Seconds since the lease was renewed; undefined when there is no such lease: its key is gone as well, and told. */
  async #age(session: string): Promise<number | undefined> {
    const { request } = this.#options.store.session;
    const found = await request('Lease/LeaseTimeToLive', encodeLeaseId(BigInt(`0x${session}`)), decodeTimeToLive);
    return found.ttl < 0 ? undefined : Math.max(0, found.granted - found.ttl);
  }
}
