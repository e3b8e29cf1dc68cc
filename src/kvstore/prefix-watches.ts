import { messageOf } from '../core/errors.ts';
import { type JobGroup, sleep } from '../core/job.ts';
import type { Connection } from './connection.ts';
import { Prefix, Target } from './prefix.ts';
import type { PrefixSink, PrefixWatch } from './store.ts';
import { isCompacted } from './transport.ts';
import type { Troubles } from './troubles.ts';
import { WatchLink } from './watch-link.ts';

/** After a list or watch that failed: so much longer each time, up to the maximum, milliseconds. */
const RETRY_MS = 50;
const MAX_RETRY_MS = 5000;

/**
 * All watched prefixes and keys of one session, multiplexed over one watch stream. Each is listed once, page by page at one
 * revision, then watched from the next; after a disconnect it resumes behind the last revision that it saw. Only
 * compaction, a lost data set or a refusal leads back to a list.
 */
export class PrefixWatches {
  readonly #jobs: JobGroup;
  readonly #troubles: Troubles;
  readonly #onSinkError: (key: string, error: unknown) => void;
  readonly #prefixes = new Set<Prefix>();
  #link: WatchLink | undefined;

  constructor(jobs: JobGroup, troubles: Troubles, onSinkError: (key: string, error: unknown) => void) {
    this.#jobs = jobs;
    this.#troubles = troubles;
    this.#onSinkError = onSinkError;
  }

  addPrefix(path: string, sink: PrefixSink): PrefixWatch {
    return this.#add(new Target(path, false), sink);
  }

  addKey(key: string, sink: PrefixSink): PrefixWatch {
    return this.#add(new Target(key, true), sink);
  }

  connect(connection: Connection): void {
    const link = new WatchLink(connection, (prefix) => this.#works(prefix));
    this.#link = link;
    for (const prefix of this.#prefixes) this.#start(prefix, link);
  }

  disconnect(): void {
    this.#link?.close();
    this.#link = undefined;
  }

  /** The store's data are others now, or may be: everything is listed again. */
  forget(): void {
    for (const prefix of this.#prefixes) prefix.next = undefined;
  }

  close(): void {
    for (const prefix of this.#prefixes) prefix.closed = true;
    this.disconnect();
  }

  #add(target: Target, sink: PrefixSink): PrefixWatch {
    const prefix = new Prefix(target, sink, this.#onSinkError);
    this.#prefixes.add(prefix);
    if (this.#link !== undefined) this.#start(prefix, this.#link);
    return {
      get synced() {
        return prefix.synced;
      },
      get lists() {
        return prefix.lists;
      },
      get lastError() {
        return prefix.lastError;
      },
      close: () => {
        prefix.closed = true;
        this.#prefixes.delete(prefix);
        this.#link?.cancel(prefix);
        this.#troubles.clear(subjectOf(prefix));
      },
    };
  }

  #start(prefix: Prefix, link: WatchLink): void {
    const ended = (): boolean => link.closed || prefix.closed;
    this.#jobs.start(subjectOf(prefix), async (signal) => {
      while (!signal.aborted && !ended()) {
        try {
          if (prefix.next === undefined) await prefix.list(link.connection, ended);
          if (prefix.next !== undefined) await link.watch(prefix);
        } catch (error) {
          if (ended()) return;
          this.#fails(prefix, error);
          await sleep(Math.min(MAX_RETRY_MS, RETRY_MS * prefix.failures), signal);
        }
      }
    });
  }

  #works(prefix: Prefix): void {
    prefix.failures = 0;
    prefix.lastError = undefined;
    this.#troubles.clear(subjectOf(prefix));
  }

  #fails(prefix: Prefix, error: unknown): void {
    prefix.failures++;
    // History that is gone is no trouble: it is listed again.
    if (isCompacted(error)) {
      prefix.next = undefined;
      if (prefix.failures < 5) return;
    }
    prefix.lastError = messageOf(error);
    this.#troubles.set(subjectOf(prefix), error);
  }
}

function subjectOf(prefix: Prefix): string {
  return `watch ${prefix.target.key}`;
}
