import type { Health } from '../api/health.ts';
import { MeshError, messageOf } from '../core/errors.ts';
import type { Log } from '../observe/log.ts';
import type { HubPart } from './part.ts';
import type { PartRecord } from './types.ts';

/** Parts that start in order and stop the other way round. */
export class PartList {
  readonly #where: PartRecord['where'];
  readonly #log: Log;
  readonly #health: Health;
  readonly #parts: { readonly part: HubPart; state: PartRecord['state'] }[] = [];

  constructor(where: PartRecord['where'], options: { readonly log: Log; readonly health: Health }) {
    this.#where = where;
    this.#log = options.log;
    this.#health = options.health;
  }

  /** Rejects with the first failure; what was started is then still to be stopped. */
  async start(parts: readonly HubPart[], signal?: AbortSignal): Promise<void> {
    for (const part of parts) {
      if (signal?.aborted === true) return;
      const entry: { part: HubPart; state: PartRecord['state'] } = { part, state: 'starting' };
      this.#parts.push(entry);
      try {
        await part.start();
        entry.state = 'running';
        this.#health.clear(`part/${part.name}`, 'HUB-PART');
      } catch (cause) {
        entry.state = 'failed';
        const error = cause instanceof MeshError ? cause : new MeshError('HUB-PART', messageOf(cause), { cause });
        this.#health.set(`part/${part.name}`, { code: 'HUB-PART', text: error.message, place: error.place });
        throw error;
      }
    }
  }

  async stop(): Promise<void> {
    for (const entry of this.#parts.splice(0).reverse()) {
      try {
        await entry.part.stop();
      } catch (error) {
        this.#log.warn('a part did not stop', { part: entry.part.name, error });
      }
    }
  }

  records(): PartRecord[] {
    return this.#parts.map(({ part, state }) => ({ name: part.name, where: this.#where, state, facts: facts(part) }));
  }
}

function facts(part: HubPart): object {
  try {
    return part.status();
  } catch (error) {
    return { error: messageOf(error) };
  }
}
