import { messageOf } from '../../core/errors.ts';
import { pointOfPrefix, VERDICT_LOG } from '../../datapath/verdict-log.ts';
import { type LoggedPacket, PacketLog } from '../../host/packet-log.ts';
import type { Agent } from '../agent.ts';
import { FlowMaker, type ToldPacket } from './flow-maker.ts';
import { FlowRing } from './flow-ring.ts';

/** Packets that wait to be looked at; more are counted and let go. */
const MAX_WAITING = 4_096;
/** The event loop gets its turn after so long, milliseconds. */
const SLICE_MS = 5;
/** The clock is asked after so many packets. */
const CLOCK_EVERY = 16;
const RETRY_MS = 5_000;
/** The kernel gathers for 50 ms, so that a flood does not wake us for each packet. */
const GATHER = { packets: 64, hundredths: 5 } as const;

/** Packets of which nobody hears, by where they were lost. */
export interface LostFlows {
  readonly 'kernel-limit': number;
  readonly 'kernel-buffer': number;
  readonly 'agent-queue': number;
}

/**
 * Verdicts of the kernel as they happen: heard, made into records in short slices, and kept in a ring for whoever asks.
 *
 *   rules ──log group──▶ waiting (bounded) ──▶ FlowMaker ──▶ ring ──▶ readers
 */
export class FlowFeed {
  readonly ring: FlowRing;
  readonly #agent: Agent;
  readonly #maker: FlowMaker;
  readonly #onWatch: () => void;
  #packets: { close(): void } | undefined;
  #retryAt = 0;
  #waiting: ToldPacket[] = [];
  #scheduled = false;
  #closed = false;
  #watchers = 0;
  #missed = 0;
  #overflowed = 0;
  #unread = 0;
  #prepared = false;
  #limitedBefore: number | undefined;

  constructor(agent: Agent, onWatch: () => void) {
    this.#agent = agent;
    this.#maker = new FlowMaker(agent);
    this.#onWatch = onWatch;
    this.ring = new FlowRing(agent.config.monitor.buffer);
  }

  /** Somebody wants to know of connections that are allowed. */
  get watchesAllowed(): boolean {
    return this.#watchers > 0;
  }

  /** Since the agent began to listen. */
  get lost(): LostFlows {
    return {
      'kernel-limit': this.#limited(),
      'kernel-buffer': this.#missed,
      'agent-queue': this.#overflowed + this.#unread,
    };
  }

  /** Records that were made. */
  get seen(): number {
    return this.ring.next;
  }

  /** Packets beyond the rate. What was counted before the agent lived nobody could have heard of. */
  #limited(): number {
    const { verdicts, told = 0 } = this.#agent.datapath.status;
    if (verdicts === undefined) return 0;
    const now = verdicts.reduce((sum, { packets }) => sum + packets, 0) - told;
    this.#limitedBefore ??= now;
    return Math.max(0, now - this.#limitedBefore);
  }

  /** Call the result when it is not wanted any more. */
  watchAllowed(): () => void {
    this.#watchers++;
    if (this.#watchers === 1) this.#onWatch();
    let over = false;
    return () => {
      if (over) return;
      over = true;
      this.#watchers--;
      if (this.#watchers === 0 && !this.#closed) this.#onWatch();
    };
  }

  /** Listens when there is something to hear; to be called from time to time, since it may have to be tried again. */
  look(): void {
    const { datapath, health, config } = this.#agent;
    if (this.#agent.reconciler.opened && !this.#prepared) {
      this.#prepared = true;
      this.#maker.prepare();
    }
    // From here on counts what nobody heard of.
    this.#limited();
    const wanted = !this.#closed && datapath.name !== 'none' && config.monitor.rate > 0;
    if (!wanted) health.clear('monitor', 'AGT-MONITOR');
    else if (datapath.status.tellsNames === false)
      health.set('monitor', {
        code: 'AGT-MONITOR',
        text: 'the kernel has no log of packets (nft_log)',
        severity: 'warning',
      });
    else if (this.#packets === undefined && performance.now() >= this.#retryAt) void this.#listen();
  }

  close(): void {
    this.#closed = true;
    this.#packets?.close();
    this.#packets = undefined;
    this.#waiting = [];
  }

  async #listen(): Promise<void> {
    const { health, datapath } = this.#agent;
    const close = datapath.hear?.('verdicts', (packet) => this.#receive(packet));
    if (close !== undefined) {
      this.#packets = { close };
      health.clear('monitor', 'AGT-MONITOR');
      return;
    }
    const packets = new PacketLog({
      ...VERDICT_LOG,
      gather: GATHER,
      onPacket: (packet) => this.#receive(packet),
      onMissed: (count) => {
        this.#missed += count;
      },
    });
    this.#packets = packets;
    try {
      await packets.open();
      health.clear('monitor', 'AGT-MONITOR');
    } catch (error) {
      packets.close();
      if (this.#packets !== packets) return;
      this.#packets = undefined;
      this.#retryAt = performance.now() + RETRY_MS;
      health.set('monitor', { code: 'AGT-MONITOR', text: messageOf(error), severity: 'warning' });
    }
  }

  #receive({ prefix, payload, inDevice, outDevice, hook }: LoggedPacket): void {
    const point = pointOfPrefix(prefix);
    if (point === undefined || this.#closed) return;
    if (this.#waiting.length >= MAX_WAITING) {
      this.#overflowed++;
      return;
    }
    // The payload is a view of a datagram with many packets, which must not be held for one of them.
    const copy = Buffer.from(payload);
    this.#waiting.push({ point, payload: copy, inDevice, outDevice, hook, time: Date.now() });
    this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => this.#slice());
  }

  #slice(): void {
    this.#scheduled = false;
    const end = performance.now() + SLICE_MS;
    let done = 0;
    for (const told of this.#waiting) {
      done++;
      const flow = this.#maker.make(told, this.ring.next);
      if (flow === undefined) this.#unread++;
      else this.ring.push(flow);
      if (done % CLOCK_EVERY === 0 && performance.now() > end) break;
    }
    this.#waiting = this.#waiting.slice(done);
    if (this.#waiting.length > 0) this.#schedule();
  }
}
