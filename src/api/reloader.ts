import { ConfigErrors } from '../config/config-errors.ts';
import { MeshError, messageOf } from '../core/errors.ts';
import type { Log } from '../observe/log.ts';
import type { Health } from './health.ts';
import type { ConfigurationRecord } from './types.ts';

/** What a reload came to: names of keys, and the files that were read. */
export interface Taken {
  readonly changed: readonly string[];
  /** Keys with a new value that counts from the next start on. */
  readonly waiting: readonly string[];
  readonly files: readonly string[];
}

export interface ReloaderOptions {
  /** Files that the program was started with. */
  readonly files: readonly string[];
  readonly health: Health;
  readonly log: Log;
  /** Told before a reload begins, and when it is over. */
  readonly onBusy: (busy: boolean) => void;
  /**
   * Reads and checks, then brings into force what can be; resolves when it is, as far as that can be waited for.
   * Rejects with ConfigErrors or MeshError when anything is wrong: then it has changed nothing.
   */
  readonly reload: () => Promise<Taken>;
}

type Outcome = Pick<ConfigurationRecord, 'changed' | 'waiting' | 'problems'>;

/** Reloads of a configuration, one after the other, and what came of the last one. */
export class Reloader {
  readonly #options: ReloaderOptions;
  #files: readonly string[];
  #readAt = Date.now();
  #requested = 0;
  #completed = 0;
  #outcome: Outcome = { changed: [], waiting: [], problems: [] };
  #running: Promise<void> | undefined;

  constructor(options: ReloaderOptions) {
    this.#options = options;
    this.#files = options.files;
  }

  get view(): ConfigurationRecord {
    const [requested, completed] = [this.#requested, this.#completed];
    return { files: this.#files, readAt: this.#readAt, requested, completed, ...this.#outcome };
  }

  /** Requests that come while a reload runs are served together by one more. */
  request(): void {
    this.#requested++;
    this.#running ??= this.#run();
  }

  /** Resolves when nothing is left to do. */
  async idle(): Promise<void> {
    await this.#running;
  }

  async #run(): Promise<void> {
    const { onBusy } = this.#options;
    onBusy(true);
    while (this.#completed < this.#requested) {
      const serves = this.#requested;
      this.#outcome = await this.#once();
      this.#completed = serves;
    }
    this.#running = undefined;
    onBusy(false);
  }

  async #once(): Promise<Outcome> {
    const { log, reload } = this.#options;
    try {
      const { changed, waiting, files } = await reload();
      this.#files = files;
      this.#readAt = Date.now();
      log.info('the configuration was read again', { changed, restart: waiting, files });
      this.#tell(waiting);
      return { changed, waiting, problems: [] };
    } catch (error) {
      return this.#refused(error);
    }
  }

  /** Keys that wait for a restart were changed by an earlier reload, and still do. */
  #refused(error: unknown): Outcome {
    const { health, log } = this.#options;
    const problems = error instanceof ConfigErrors ? error.problems : [asMeshError(error)];
    const [first, ...rest] = problems;
    const more = rest.length > 0 ? ` (and ${rest.length} more)` : '';
    const text = `the configuration is as it was before: ${first?.message ?? ''}${more}`;
    health.set('config', { code: 'CFG-RELOAD', text, place: first?.place, severity: 'warning' });
    for (const { message, code, place } of problems) log.warn(message, { code, place });
    return { changed: [], waiting: this.#outcome.waiting, problems: problems.map(recordOf) };
  }

  #tell(waiting: readonly string[]): void {
    const { health } = this.#options;
    health.clear('config', 'CFG-RELOAD');
    const text = `changed, and not in force before a restart: ${waiting.join(', ')}`;
    health.check('config', 'CFG-RESTART', waiting.length > 0 ? { text, severity: 'warning' } : undefined);
  }
}

function recordOf({ code, message, place, remedy }: MeshError): ConfigurationRecord['problems'][number] {
  return { code, message, ...(place !== undefined && { place }), remedy };
}

function asMeshError(error: unknown): MeshError {
  return error instanceof MeshError ? error : new MeshError('CFG-FILE', messageOf(error), { cause: error });
}
