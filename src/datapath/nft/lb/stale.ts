import { messageOf } from '../../../core/errors.ts';
import { Attributes, AttributeWriter, NESTED } from '../../../host/attributes.ts';
import { NETLINK_NETFILTER, NetlinkSocket, NLM_F_ACK } from '../../../host/netlink.ts';
import { NetlinkError } from '../../../host/netlink-error.ts';
import type { HeldServices } from '../../lb/held.ts';
import { isUdp, type Moved } from '../../lb/writer.ts';

const SUBSYSTEM = 1 << 8;
const GET = 1;
const DELETE = 2;
const CTA = { orig: 1, reply: 2, zone: 18 } as const;
const UDP = 17;
/** Least time between two looks at all connections; the second finds flows that were being made during the first. */
const INTERVAL_MS = 1000;

/**
 * UDP flows to a frontend whose target is gone, or that began before the frontend led anywhere. Connection tracking would
 * keep them where they are for as long as the client sends: their entry is taken away, and the next datagram finds a target
 * anew, as Cilium does it. TCP and SCTP connections are left alone: they stay with their target as long as that answers.
 */
export class StaleFlows {
  readonly #held: HeldServices;
  readonly #onError: (message: string) => void;
  readonly #socket = new NetlinkSocket({ family: NETLINK_NETFILTER });
  /** Frontends by family and bytes. */
  #moved = new Set<string>();
  #again = new Set<string>();
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> | undefined;
  #nextAt = 0;
  /** The last look did, and was told. */
  #failed = false;
  #closed = false;

  constructor(held: HeldServices, onError: (message: string) => void) {
    this.#held = held;
    this.#onError = onError;
  }

  changed(moved: readonly Moved[]): void {
    for (const each of moved) if (isUdp(each)) this.#moved.add(`${each.family}${each.frontend}`);
    if (this.#moved.size > 0) this.#schedule();
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#running;
    this.#socket.close();
  }

  #schedule(): void {
    if (this.#closed || this.#running !== undefined) return;
    this.#timer ??= setTimeout(
      () => {
        this.#timer = undefined;
        this.#running = this.#look().finally(() => {
          this.#running = undefined;
          this.#nextAt = Date.now() + INTERVAL_MS;
          if (this.#moved.size + this.#again.size > 0) this.#schedule();
        });
      },
      Math.max(0, this.#nextAt - Date.now()),
    ).unref();
  }

  async #look(): Promise<void> {
    const wanted = new Set([...this.#moved, ...this.#again]);
    this.#again = this.#moved;
    this.#moved = new Set();
    const stale: Uint8Array[] = [];
    try {
      const request = { type: SUBSYSTEM | GET, body: Uint8Array.of(0, 0, 0, 0), operation: 'read connections' };
      const { interrupted } = await this.#socket.dump(request, ({ body }) => {
        const entry = this.#staleEntry(body, wanted);
        if (entry !== undefined) stale.push(entry);
      });
      for (const body of stale) await this.#forget(body);
      // The listing may have missed some.
      if (interrupted) this.#again = wanted;
      this.#failed = false;
    } catch (error) {
      this.#again = wanted;
      if (!this.#closed && !this.#failed) this.#onError(messageOf(error));
      this.#failed = true;
    }
  }

  /** What names the entry to the kernel, if it is one of `wanted` and leads to no present target. */
  #staleEntry(body: Buffer, wanted: ReadonlySet<string>): Uint8Array | undefined {
    const attributes = new Attributes(body, 4);
    const family = body[0] === 2 ? 4 : 6;
    const [original, reply] = [attributes.nested(CTA.orig), attributes.nested(CTA.reply)];
    if (original?.nested(2)?.u8(1) !== UDP || reply === undefined) return undefined;
    const to = endOf(original, family, 'to');
    const from = endOf(reply, family, 'from');
    const bytes = to === undefined ? '' : frontendOf(to, family);
    if (from === undefined || !wanted.has(`${family}${bytes}`)) return undefined;
    const held = this.#held.frontends[family].get(bytes);
    if (held?.slots.includes(from) === true) return undefined;
    const writer = new AttributeWriter(256);
    writer.raw(Uint8Array.of(body[0] as number, 0, 0, 0));
    writer.data(CTA.orig | NESTED, attributes.data(CTA.orig) as Buffer);
    const zone = attributes.data(CTA.zone);
    if (zone !== undefined) writer.data(CTA.zone, zone);
    return Uint8Array.from(writer.bytes());
  }

  async #forget(body: Uint8Array): Promise<void> {
    try {
      const operation = 'forget a flow';
      await this.#socket.request({ type: SUBSYSTEM | DELETE, flags: NLM_F_ACK, body, operation });
    } catch (error) {
      if (!(error instanceof NetlinkError && error.errnoName === 'ENOENT')) throw error;
    }
  }
}

/** Address and port of one end, as a target is written in the kernel's map. */
function endOf(tuple: Attributes, family: 4 | 6, end: 'from' | 'to'): string | undefined {
  const addresses = family === 4 ? { from: 1, to: 2 } : { from: 3, to: 4 };
  const address = tuple.nested(1)?.data(addresses[end]);
  const port = tuple.nested(2)?.data(end === 'from' ? 2 : 3);
  if (address === undefined || port === undefined) return undefined;
  return `${address.toString('latin1')}${port.toString('latin1')}\0\0`;
}

function frontendOf(end: string, family: 4 | 6): string {
  const width = family === 4 ? 4 : 16;
  return `${end.slice(0, width)}${String.fromCharCode(UDP)}\0\0\0${end.slice(width)}`;
}
