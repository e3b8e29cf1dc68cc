import { messageOf } from '../../core/errors.ts';
import type { FeedReader } from '../../core/feed.ts';
import { JobGroup, sleep } from '../../core/job.ts';
import type { ConnectionBook } from '../connections/connection-book.ts';
import type { ServiceTable } from '../services/service-table.ts';
import type { Unreachable } from './machine-record.ts';

/** A machine that is registered, and what is decided about it. */
export interface Registered {
  readonly name: string;
  readonly unreachable: Unreachable | undefined;
}

/** Of services without checks, by key: their machines that are out for it, and those that are kept although. */
export interface Absent {
  readonly out: ReadonlyMap<string, readonly Missing[]>;
  readonly kept: ReadonlyMap<string, readonly Missing[]>;
}

export interface Missing {
  readonly name: string;
  /** Milliseconds since the epoch. */
  readonly since: number;
}

export interface AbsenceOptions {
  readonly connections: Pick<ConnectionBook, 'isConnected' | 'read'>;
  readonly services: Pick<ServiceTable, 'selecting' | 'get' | 'active'>;
  readonly machines: () => Iterable<Registered>;
  /** Another decision; undefined: it is connected. */
  readonly onDecided: (name: string, unreachable: Unreachable | undefined) => void;
  /** After each round. */
  readonly onRound: (absent: Absent) => void;
  readonly onProblem: (message: string) => void;
  /** How long a machine may be without a connection; zero: for ever. */
  readonly afterMs: number;
  readonly roundMs?: number;
}

interface Since {
  /** Monotonic milliseconds: nobody sets that clock. */
  readonly monotonic: number;
  /** Milliseconds since the epoch, for people. */
  readonly epoch: number;
}

const ROUND_MS = 2_000;
const NOBODY: Absent = { out: new Map(), kept: new Map() };

/**
 * Takes machines that no hub has a connection of out of the services without checks, after a while; those with checks have a
 * better judge (`liveness.ts`). What is missing may be the machine, or the way between it and the hubs while clusters
 * reach it: when more than half of the machines of a service that still serve are missing at once, it is rather the
 * way, and all of them are kept. The time begins anew with each leader, which knows nothing of before; whoever was out
 * for the leader before it is out until it comes back.
 */
export class Absence {
  readonly #options: AbsenceOptions;
  readonly #jobs: JobGroup;
  readonly #since = new Map<string, Since>();
  #reader: FeedReader<string> | undefined;
  #wakeUp = new AbortController();

  constructor(options: AbsenceOptions) {
    this.#options = options;
    this.#jobs = new JobGroup((name, error) => options.onProblem(`${name} ended: ${messageOf(error)}`));
  }

  start(): void {
    const { afterMs, connections, roundMs = ROUND_MS } = this.#options;
    if (afterMs === 0) {
      this.#forgiveAll();
      return;
    }
    const reader = connections.read(() => this.#wakeUp.abort());
    this.#reader = reader;
    this.#jobs.start('connections of machines', async (signal) => {
      while (!signal.aborted) {
        this.#wakeUp = new AbortController();
        // Whoever comes back is back at once.
        if (!reader.pending) await sleep(roundMs, AbortSignal.any([signal, this.#wakeUp.signal]));
        reader.drain();
        if (!signal.aborted) this.#round();
        await sleep(roundMs / 20, signal);
      }
    });
  }

  async stop(): Promise<void> {
    this.#reader?.close();
    await this.#jobs.stop();
    this.#options.onRound(NOBODY);
  }

  #forgiveAll(): void {
    const { machines, onDecided } = this.#options;
    for (const { name, unreachable } of machines()) if (unreachable !== undefined) onDecided(name, undefined);
  }

  #round(): void {
    const { machines, connections, onDecided, onRound, afterMs } = this.#options;
    const now = performance.now();
    const absent: Registered[] = [];
    for (const machine of machines()) {
      if (!connections.isConnected(machine.name)) absent.push(machine);
      else if (machine.unreachable !== undefined) onDecided(machine.name, undefined);
    }
    const names = new Set(absent.map(({ name }) => name));
    for (const name of this.#since.keys()) if (!names.has(name)) this.#since.delete(name);
    for (const name of names) if (!this.#since.has(name)) this.#since.set(name, { monotonic: now, epoch: Date.now() });
    const due = absent.filter(({ name, unreachable }) => unreachable !== undefined || this.#age(name, now) >= afterMs);
    onRound(due.length === 0 ? NOBODY : this.#decide(due));
  }

  #decide(due: readonly Registered[]): Absent {
    const { services, onDecided } = this.#options;
    const [out, kept] = [new Map<string, Missing[]>(), new Map<string, Missing[]>()];
    const judged = new Map<string, ReadonlySet<string>>();
    for (const { name, unreachable } of due) {
      const keptIn: string[] = [];
      const since = unreachable?.since ?? this.#since.get(name)?.epoch ?? Date.now();
      for (const key of services.selecting(name)) {
        if (services.get(key)?.checks.length !== 0) continue;
        const tooMany = judged.get(key) ?? this.#tooManyMissing(key);
        judged.set(key, tooMany);
        const stays = tooMany.has(name);
        if (stays) keptIn.push(key);
        noteIn(stays ? kept : out, key, { name, since });
      }
      const same = unreachable?.kept.length === keptIn.length && unreachable.kept.every((key) => keptIn.includes(key));
      if (!same) onDecided(name, { since, kept: keptIn });
    }
    return { out, kept };
  }

  /** Machines of a service that still serve and are missing now, if these are more than half of those that do. */
  #tooManyMissing(key: string): ReadonlySet<string> {
    const serving = this.#options.services.active(key);
    const missing = serving.filter((name) => this.#since.has(name));
    return new Set(missing.length * 2 > serving.length ? missing : []);
  }

  #age(name: string, now: number): number {
    return now - (this.#since.get(name)?.monotonic ?? now);
  }
}

function noteIn(services: Map<string, Missing[]>, key: string, machine: Missing): void {
  const known = services.get(key);
  if (known === undefined) services.set(key, [machine]);
  else known.push(machine);
}
