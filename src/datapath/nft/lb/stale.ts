import { Attributes, AttributeWriter, NESTED } from '../../../host/attributes.ts';
import { NETLINK_NETFILTER, NetlinkSocket, NLM_F_ACK } from '../../../host/netlink.ts';
import { NetlinkError } from '../../../host/netlink-error.ts';
import type { HeldServices } from '../../lb/held.ts';
import { FlowLooks, frontendName } from '../../lb/looks.ts';
import type { Moved } from '../../lb/writer.ts';

const SUBSYSTEM = 1 << 8;
const GET = 1;
const DELETE = 2;
const CTA = { orig: 1, reply: 2, zone: 18 } as const;
const UDP = 17;

/**
 * UDP flows to a frontend whose target is gone, or that began before the frontend led anywhere. Connection tracking would
 * keep them where they are: their entry is taken away, and the next datagram finds a target anew, as Cilium does it.
 */
export class StaleFlows {
  readonly #held: HeldServices;
  readonly #socket = new NetlinkSocket({ family: NETLINK_NETFILTER });
  readonly #looks: FlowLooks;

  constructor(held: HeldServices, onError: (message: string) => void) {
    this.#held = held;
    this.#looks = new FlowLooks({ look: (wanted) => this.#look(wanted), onError });
  }

  changed(moved: readonly Moved[]): void {
    this.#looks.changed(moved);
  }

  async close(): Promise<void> {
    await this.#looks.close();
    this.#socket.close();
  }

  async #look(wanted: ReadonlySet<string>): Promise<boolean> {
    const stale: Uint8Array[] = [];
    const request = { type: SUBSYSTEM | GET, body: Uint8Array.of(0, 0, 0, 0), operation: 'read connections' };
    const { interrupted } = await this.#socket.dump(request, ({ body }) => {
      const entry = this.#staleEntry(body, wanted);
      if (entry !== undefined) stale.push(entry);
    });
    for (const body of stale) await this.#forget(body);
    // The listing may have missed some.
    return !interrupted;
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
    if (from === undefined || !wanted.has(frontendName(family, bytes))) return undefined;
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
