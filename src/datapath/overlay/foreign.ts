import { formatPrefix, type Prefix } from '../../core/ip.ts';
import type { RouteFacts } from './routes.ts';

/** Beyond that the machine is a router with a whole table, and the comparison is left to its people. */
const MOST = 10_000;

/**
 * Routes of others in the main table. One to the very same prefix as ours is preferred to it: the packets then do not
 * take the overlay, which an operator should know.
 */
export class ForeignRoutes {
  readonly #routes = new Map<string, RouteFacts>();

  clear(): void {
    this.#routes.clear();
  }

  added(route: RouteFacts): void {
    if (this.#routes.size < MOST) this.#routes.set(keyOf(route), route);
  }

  removed(route: RouteFacts): void {
    this.#routes.delete(keyOf(route));
  }

  /** The kernel drops routes of IPv4 without a word when their device goes down. */
  deviceDown(index: number): void {
    for (const [key, { device }] of this.#routes) if (device === index) this.#routes.delete(key);
  }

  /** The prefixes of ours that a route of others is preferred to. */
  shadowed(holds: (prefix: Prefix) => boolean): string[] {
    const found = [...this.#routes.values()].filter(({ prefix }) => holds(prefix));
    return [...new Set(found.map(({ prefix }) => formatPrefix(prefix)))];
  }
}

function keyOf({ prefix, metric }: RouteFacts): string {
  return `${formatPrefix(prefix)} ${metric}`;
}
