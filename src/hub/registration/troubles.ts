import type { Health } from '../../api/health.ts';

const SUBJECT = 'workloads';
const NAMED = 3;
const COLLECT_MS = 500;

/** What is wrong with which machine, told as one record each for all of them: thousands may have the same trouble. */
export class Troubles {
  readonly #health: Pick<Health, 'check'>;
  readonly #refused = new Map<string, string>();
  readonly #overlaps = new Map<string, string>();
  #timer: NodeJS.Timeout | undefined;

  constructor(health: Pick<Health, 'check'>) {
    this.#health = health;
  }

  /** Workloads of which something is refused. */
  get names(): Iterable<string> {
    return [...this.#refused.keys()];
  }

  get size(): number {
    return this.#refused.size;
  }

  /** Whether that is new. */
  set(name: string, text: string): boolean {
    if (this.#refused.get(name) === text) return false;
    this.#refused.set(name, text);
    this.#changed();
    return true;
  }

  clear(name: string): void {
    if (this.#refused.delete(name)) this.#changed();
  }

  /** Whether that is new. */
  overlap(name: string, text: string | undefined): boolean {
    if (this.#overlaps.get(name) === text) return false;
    if (text === undefined) this.#overlaps.delete(name);
    else this.#overlaps.set(name, text);
    this.#changed();
    return true;
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#health.check(SUBJECT, 'HUB-REGISTRATION', undefined);
    this.#health.check(SUBJECT, 'HUB-OVERLAP', undefined);
  }

  #changed(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#health.check(SUBJECT, 'HUB-REGISTRATION', summary(this.#refused, 'workload'));
      this.#health.check(SUBJECT, 'HUB-OVERLAP', summary(this.#overlaps, 'workload'));
    }, COLLECT_MS).unref();
  }
}

function summary(troubles: ReadonlyMap<string, string>, what: string) {
  if (troubles.size === 0) return undefined;
  const named = [...troubles].slice(0, NAMED).map(([name, text]) => `${name}: ${text.slice(0, 200)}`);
  const more = troubles.size > NAMED ? `; and ${troubles.size - NAMED} more` : '';
  const count = `${troubles.size} ${what}${troubles.size === 1 ? '' : 's'}`;
  return { text: `${count}: ${named.join('; ')}${more}`, severity: 'warning' as const };
}
