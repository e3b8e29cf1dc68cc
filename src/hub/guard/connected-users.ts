import { Feed, type FeedReader } from '../../core/feed.ts';

/** Users with a connection to this hub, as the guard sees them: everyone comes through it. */
export class ConnectedUsers {
  readonly #counts = new Map<string, number>();
  readonly #changed = new Feed<string>();

  /** Users at this moment. */
  get all(): ReadonlySet<string> {
    return new Set(this.#counts.keys());
  }

  has(user: string): boolean {
    return this.#counts.has(user);
  }

  countOf(user: string): number {
    return this.#counts.get(user) ?? 0;
  }

  /** One connection more. */
  arrived(user: string): void {
    this.#counts.set(user, this.countOf(user) + 1);
    this.#changed.mark(user);
  }

  /** One connection less. */
  left(user: string): void {
    const count = this.countOf(user) - 1;
    if (count > 0) this.#counts.set(user, count);
    else this.#counts.delete(user);
    this.#changed.mark(user);
  }

  /** Users that came or went. */
  read(wake: () => void): FeedReader<string> {
    return this.#changed.read(wake);
  }
}
