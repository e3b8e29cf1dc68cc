import { type LinkState, readLinkState } from './links.ts';
import { NETLINK_ROUTE, type NetlinkMessage, NetlinkSocket } from './netlink.ts';
import { isDefaultRoute } from './routes.ts';
import { RTM, RTNLGRP } from './rtnetlink.ts';

export interface LinkWatchOptions {
  /** The state after a change; never called twice at once. Must not throw. */
  readonly onChange: (state: LinkState) => void;
  /** The state could not be read; it is tried again. */
  readonly onError?: (error: unknown) => void;
  /** Changes within this time are told once, milliseconds; 5 by default. Under a storm of events it grows. */
  readonly settleMs?: number;
}

const RETRY_MS = 1000;
/** Of the time, reading takes a tenth at most: on a host of many containers devices come and go all day long. */
const REST = 9;
const MAX_REST_MS = 500;

/**
 * Watches devices, addresses and default routes of this network namespace. Events only say that something changed: the
 * whole state is then read again, so late, repeated and lost events give the same result.
 */
export class LinkWatch {
  readonly #options: LinkWatchOptions;
  readonly #socket: NetlinkSocket;
  readonly #events: NetlinkSocket;
  #timer: NodeJS.Timeout | undefined;
  #reading = false;
  #again = false;
  #closed = false;
  #told = '';
  /** No look before that, monotonic milliseconds. */
  #restUntil = 0;

  /** Throws NetlinkError. */
  constructor(options: LinkWatchOptions) {
    this.#options = options;
    this.#socket = new NetlinkSocket({ family: NETLINK_ROUTE });
    this.#events = new NetlinkSocket({
      family: NETLINK_ROUTE,
      onEvent: (message) => {
        if (matters(message)) this.#schedule(this.#pause());
      },
      onLost: () => this.#schedule(this.#pause()),
    });
    for (const group of Object.values(RTNLGRP)) this.#events.join(group);
  }

  /** The state now; changes from here on are told. */
  async read(): Promise<LinkState> {
    const state = await readLinkState(this.#socket);
    this.#told = JSON.stringify(state);
    return state;
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#events.close();
    this.#socket.close();
  }

  #pause(): number {
    return Math.max(this.#options.settleMs ?? 5, this.#restUntil - performance.now());
  }

  #schedule(delayMs: number): void {
    if (this.#closed) return;
    if (this.#reading) this.#again = true;
    else this.#timer ??= setTimeout(() => void this.#look(), delayMs).unref();
  }

  async #look(): Promise<void> {
    this.#timer = undefined;
    this.#reading = true;
    let retry: number | undefined;
    const start = performance.now();
    try {
      const state = await readLinkState(this.#socket);
      const text = JSON.stringify(state);
      if (!this.#closed && text !== this.#told) {
        this.#told = text;
        this.#options.onChange(state);
      }
    } catch (error) {
      if (!this.#closed) this.#options.onError?.(error);
      retry = RETRY_MS;
      // Whoever heard of the failure hears of the state after it, the same or not.
      this.#told = '';
    } finally {
      this.#reading = false;
    }
    const end = performance.now();
    this.#restUntil = end + Math.min(MAX_REST_MS, REST * (end - start));
    if (this.#again) retry ??= this.#pause();
    this.#again = false;
    if (retry !== undefined) this.#schedule(retry);
  }
}

/** Of routes only default routes matter; a machine with an overlay changes thousands of others. */
function matters(message: NetlinkMessage): boolean {
  const { type } = message;
  return (type !== RTM.newRoute && type !== RTM.delRoute) || isDefaultRoute(message.body);
}
