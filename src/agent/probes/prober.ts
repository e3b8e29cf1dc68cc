import { setMaxListeners } from 'node:events';
import { messageOf } from '../../core/errors.ts';
import type { Family } from '../../core/ip.ts';
import { sleep } from '../../core/job.ts';
import { EchoSocket } from '../../host/echo.ts';
import { askHello } from './hello-probe.ts';
import type { Finding, ProbeKind, ProbeResults } from './results.ts';
import { Slots } from './slots.ts';
import type { Target } from './targets.ts';

export interface Probed {
  /** `<cluster>/<name>` */
  readonly node: string;
  readonly target: Target;
}

export interface ProberOptions {
  readonly port: number;
  readonly timeoutMs: number;
  readonly results: ProbeResults;
  /** Why this machine's own policy does not let a probe out; undefined when it does. */
  readonly blocked: (target: Target, kind: ProbeKind) => string | undefined;
  readonly onFinding: (target: Target, kind: ProbeKind, finding: Finding) => void;
  /** Echo requests cannot be sent at all, in words; undefined when they can. */
  readonly onEchoTrouble: (text: string | undefined) => void;
}

/** Addresses that are probed at once: each may hold a socket for as long as the timeout. */
const MAX_AT_ONCE = 256;
const ECHO_REQUESTS = 3;
const ECHO_PAUSE_MS = 1000;
/** Probes that are due within so long are begun together: thousands of nodes must not mean thousands of wake-ups. */
const BATCH_MS = 100;

/** Probes addresses: ICMP echo and `GET /hello` side by side. */
export class Prober {
  readonly #options: ProberOptions;
  readonly #sockets: Record<Family, EchoSocket> = { 4: new EchoSocket(4), 6: new EchoSocket(6) };
  readonly #mute: Record<Family, string | undefined> = { 4: undefined, 6: undefined };
  readonly #slots = new Slots(MAX_AT_ONCE);
  readonly #closed = new AbortController();

  constructor(options: ProberOptions) {
    this.#options = options;
    // One for each probe that is under way.
    setMaxListeners(0, this.#closed.signal);
  }

  /** Ends what is under way; nothing is found any more. */
  close(): void {
    this.#closed.abort();
    for (const socket of Object.values(this.#sockets)) socket.close();
  }

  /** Probes all, their beginnings spread evenly over the time; resolves when the last one has ended. */
  async round(all: readonly Probed[], spreadMs: number): Promise<void> {
    const { signal } = this.#closed;
    const start = performance.now();
    const running = new Set<Promise<void>>();
    for (const [index, each] of all.entries()) {
      const waitMs = start + (spreadMs * index) / all.length - performance.now();
      if (waitMs > BATCH_MS || (waitMs > 0 && all.length * BATCH_MS <= spreadMs)) await sleep(waitMs, signal);
      await this.#slots.take();
      if (signal.aborted) {
        this.#slots.free();
        break;
      }
      const probe = this.#probe(each).finally(() => {
        this.#slots.free();
        running.delete(probe);
      });
      running.add(probe);
    }
    await Promise.all(running);
  }

  async #probe({ node, target }: Probed): Promise<void> {
    const [icmp, http] = await Promise.all([
      this.#echo(target),
      target.kind === 'router' ? undefined : this.#hello(target),
    ]);
    if (this.#closed.signal.aborted) return;
    this.#options.results.put(node, target.ip, { icmp, http });
    this.#options.onFinding(target, 'icmp', icmp);
    if (http !== undefined) this.#options.onFinding(target, 'http', http);
  }

  async #echo(target: Target): Promise<Finding> {
    const { timeoutMs } = this.#options;
    try {
      const pauseMs = Math.min(ECHO_PAUSE_MS, timeoutMs / (ECHO_REQUESTS + 1));
      const { address } = target;
      const { signal } = this.#closed;
      const socket = this.#sockets[address.family];
      const outcome = await socket.ask({ address, requests: ECHO_REQUESTS, pauseMs, timeoutMs, signal });
      this.#echoTrouble(address.family, undefined);
      return 'rttMs' in outcome
        ? { state: 'ok', latencyMs: outcome.rttMs }
        : this.#failed(target, 'icmp', outcome.text);
    } catch (error) {
      this.#echoTrouble(target.address.family, messageOf(error));
      return { state: 'unknown', reason: messageOf(error) };
    }
  }

  /** Told when it changes: one family may work while the other does not. */
  #echoTrouble(family: Family, text: string | undefined): void {
    const told = this.#mute[4] ?? this.#mute[6];
    this.#mute[family] = text;
    const now = this.#mute[4] ?? this.#mute[6];
    if (now !== told) this.#options.onEchoTrouble(now);
  }

  async #hello(target: Target): Promise<Finding> {
    const { port, timeoutMs } = this.#options;
    const outcome = await askHello({ address: target.ip, port, timeoutMs, signal: this.#closed.signal });
    return 'text' in outcome
      ? this.#failed(target, 'http', outcome.text)
      : { state: 'ok', latencyMs: outcome.latencyMs };
  }

  #failed(target: Target, kind: ProbeKind, reason: string): Finding {
    const blocked = this.#options.blocked(target, kind);
    return blocked === undefined ? { state: 'failed', reason } : { state: 'blocked', reason: blocked };
  }
}
