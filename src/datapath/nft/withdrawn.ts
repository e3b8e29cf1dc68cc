import { Attributes, AttributeWriter, NESTED } from '../../host/attributes.ts';
import { type NetlinkSocket, NLM_F_ACK } from '../../host/netlink.ts';
import { NetlinkError } from '../../host/netlink-error.ts';

/**
 * Connections whose policy was withdrawn. The rules label each connection with the direction in which it was judged; flows
 * that passed by an exemption have no label and are never cut. Deleting the entry instead would let the next packet of our
 * own make a new one in the other direction.
 */
const SUBSYSTEM = 1 << 8;
const CTA = { orig: 1, reply: 2, labels: 22, labelsMask: 23 } as const;
/** All our label bits are in the last byte. */
const LAST = 15;
const BIT = { withdrawn: 1, ingress: 2, egress: 4, overlay: 8 } as const;

export interface JudgedFlow {
  readonly direction: 'ingress' | 'egress';
  readonly family: 4 | 6;
  /** The peer's address as bytes. */
  readonly peer: Buffer;
  readonly protocol: number;
  /** Destination port, or ICMP type. */
  readonly port: number;
  /** Judged by the identity that the overlay brought, not by the address. */
  readonly overlay: boolean;
}

/** Labels what `denied` says and takes the label from what it no longer says. @returns connections cut now */
export async function cutWithdrawn(socket: NetlinkSocket, denied: (flow: JudgedFlow) => boolean): Promise<number> {
  const changes: { orig: Buffer; family: number; cut: boolean }[] = [];
  const header = Uint8Array.of(0, 0, 0, 0);
  await socket.dump({ type: SUBSYSTEM | 1, body: header, operation: 'read connections' }, (message) => {
    const attributes = new Attributes(message.body, 4);
    const label = attributes.data(CTA.labels)?.[LAST] ?? 0;
    if ((label & (BIT.ingress | BIT.egress)) === 0) return;
    const orig = attributes.data(CTA.orig);
    if (orig === undefined) return;
    const family = message.body[0] as number;
    const cut = flowsOf(attributes, label, family === 2 ? 4 : 6).some(denied);
    if (cut !== ((label & BIT.withdrawn) !== 0)) changes.push({ orig: Buffer.from(orig), family, cut });
  });
  let count = 0;
  for (const change of changes) if ((await setLabel(socket, change)) && change.cut) count++;
  return count;
}

function flowsOf(attributes: Attributes, label: number, family: 4 | 6): JudgedFlow[] {
  const flows: JudgedFlow[] = [];
  const overlay = (label & BIT.overlay) !== 0;
  const original = attributes.nested(CTA.orig);
  const reply = attributes.nested(CTA.reply);
  if ((label & BIT.ingress) !== 0 && original !== undefined) {
    const peer = original.nested(1)?.data(family === 4 ? 1 : 3);
    if (peer !== undefined) flows.push({ direction: 'ingress', family, peer, overlay, ...port(original, false) });
  }
  if ((label & BIT.egress) !== 0 && original !== undefined && reply !== undefined) {
    // Judged after translation: the peer is who answers.
    const peer = reply.nested(1)?.data(family === 4 ? 1 : 3);
    const to = port(original, false);
    const translated = { ...to, port: to.protocol === 1 || to.protocol === 58 ? to.port : port(reply, true).port };
    if (peer !== undefined) flows.push({ direction: 'egress', family, peer, overlay: false, ...translated });
  }
  return flows;
}

function port(tuple: Attributes, source: boolean): { protocol: number; port: number } {
  const proto = tuple.nested(2);
  const protocol = proto?.u8(1) ?? 0;
  if (protocol === 1) return { protocol, port: proto?.u8(5) ?? 0 };
  if (protocol === 58) return { protocol, port: proto?.u8(8) ?? 0 };
  return { protocol, port: proto?.u16be(source ? 2 : 3) ?? 0 };
}

async function setLabel(
  socket: NetlinkSocket,
  change: { orig: Buffer; family: number; cut: boolean },
): Promise<boolean> {
  const writer = new AttributeWriter(256);
  writer.raw(Uint8Array.of(change.family, 0, 0, 0));
  writer.data(CTA.orig | NESTED, change.orig);
  const label = new Uint8Array(16);
  if (change.cut) label[LAST] = BIT.withdrawn;
  writer.data(CTA.labels, label);
  const mask = new Uint8Array(16);
  mask[LAST] = BIT.withdrawn;
  writer.data(CTA.labelsMask, mask);
  try {
    await socket.request({ type: SUBSYSTEM, flags: NLM_F_ACK, body: writer.bytes(), operation: 'label connection' });
    return true;
  } catch (error) {
    if (error instanceof NetlinkError && error.errnoName === 'ENOENT') return false;
    throw error;
  }
}
