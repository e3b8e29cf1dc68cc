import { MeshError, messageOf } from '../core/errors.ts';
import type { StoreTrouble } from './store.ts';

/** What is wrong now, by subject, each with the time when it began. */
export class Troubles {
  readonly #bySubject = new Map<string, StoreTrouble>();
  readonly #onChange: () => void;

  constructor(onChange: () => void) {
    this.#onChange = onChange;
  }

  /** Connection and quorum first, then what came first. */
  get list(): readonly StoreTrouble[] {
    const rank = ({ subject }: StoreTrouble): number => (subject === 'connection' ? 0 : subject === 'quorum' ? 1 : 2);
    return [...this.#bySubject.values()].sort((a, b) => rank(a) - rank(b) || a.since - b.since);
  }

  set(subject: string, error: unknown, since = Date.now()): void {
    const code = error instanceof MeshError ? error.code : 'KVS-LOST';
    const known = this.#bySubject.get(subject);
    const message = messageOf(error);
    if (known?.code === code && known.message === message) return;
    this.#bySubject.set(subject, { subject, code, message, since: known?.since ?? since });
    this.#onChange();
  }

  clear(subject: string): void {
    if (this.#bySubject.delete(subject)) this.#onChange();
  }
}
