import { RingBuffer } from '../../host/bpf/ring.ts';
import type { LoggedPacket } from '../../host/packet-log.ts';
import { NAME_LOG } from '../name-log.ts';
import { logPrefix } from '../verdict-log.ts';
import type { Generation } from './generation.ts';
import { pointOf } from './layout.ts';

type What = 'verdicts' | 'names';
type Listener = (packet: LoggedPacket) => void;

/** `struct event` in native/bpf/policy.h. */
const HEADER = 12;
const EVENT = { verdict: 0, query: 1, answer: 2 } as const;
/** Hooks of netfilter, as whoever listens knows them. */
const HOOK = { in: 0, out: 4 } as const;

/** Hands what the programs tell of packets to those who listen; without a listener nothing is read. */
export class Ears {
  readonly #listeners: Record<What, Set<Listener>> = { verdicts: new Set(), names: new Set() };
  #generation: Generation | undefined;
  #ring: RingBuffer | undefined;

  /** The ring is that of another generation, or there is none. */
  follow(generation: Generation | undefined): void {
    this.#ring?.close();
    this.#ring = undefined;
    this.#generation = generation;
    this.#listen();
  }

  hear(what: What, listener: Listener): () => void {
    const listeners = this.#listeners[what];
    listeners.add(listener);
    this.#listen();
    return () => {
      listeners.delete(listener);
      if (this.#listeners.verdicts.size + this.#listeners.names.size > 0) return;
      this.#ring?.close();
      this.#ring = undefined;
    };
  }

  #listen(): void {
    if (this.#ring !== undefined || this.#generation === undefined) return;
    if (this.#listeners.verdicts.size + this.#listeners.names.size === 0) return;
    this.#ring = new RingBuffer(this.#generation.map('events'), (record) => this.#receive(record));
  }

  #receive(record: Buffer): void {
    if (record.length < HEADER) return;
    const [kind = 0, verdict = 0, direction = 0] = record;
    const device = record.readUInt32LE(4);
    const payload = record.subarray(HEADER, HEADER + record.readUInt32LE(8));
    const prefix = prefixOf(kind, verdict, direction);
    if (prefix === undefined || payload.length === 0) return;
    const enters = direction === 0;
    const packet: LoggedPacket = {
      payload,
      family: (payload[0] as number) >> 4 === 6 ? 6 : 4,
      prefix,
      mark: 0,
      inDevice: enters ? device : 0,
      outDevice: enters ? 0 : device,
      hook: enters ? HOOK.in : HOOK.out,
    };
    for (const listener of this.#listeners[kind === EVENT.verdict ? 'verdicts' : 'names']) listener(packet);
  }
}

function prefixOf(kind: number, verdict: number, direction: number): string | undefined {
  if (kind === EVENT.query) return NAME_LOG.query;
  if (kind === EVENT.answer) return NAME_LOG.answer;
  const point = pointOf(verdict, direction);
  return point === undefined ? undefined : logPrefix(point);
}
