import { Attributes, AttributeWriter, NESTED } from '../../host/attributes.ts';
import { type NetlinkSocket, NLM_F_ACK } from '../../host/netlink.ts';
import { NetlinkError } from '../../host/netlink-error.ts';
import { LABEL } from './names.ts';

/**
 * Connections whose policy was withdrawn. The rules label each connection with the direction in which it was judged; flows
 * that passed by an exemption have no label and are never cut. Deleting the entry instead would let the next packet of our
 * own make a new one in the other direction.
 */
const SUBSYSTEM = 1 << 8;
const CTA = { orig: 1, reply: 2, zone: 18, labels: 22, labelsMask: 23 } as const;
/** All our label bits are in the last byte. */
const LAST = 15;
const AF_INET = 2;
const AF_INET6 = 10;
const bit = (label: number): number => 1 << (label - LAST * 8);
const BIT = {
  withdrawn: bit(LABEL.withdrawn),
  ingress: bit(LABEL.ingress),
  egress: bit(LABEL.egress),
  overlay: bit(LABEL.overlay),
  passed: bit(LABEL.passed),
  passedOut: bit(LABEL.passedOut),
} as const;
const STATE_BITS = BIT.withdrawn | BIT.passed | BIT.passedOut;

export interface JudgedFlow {
  readonly direction: 'ingress' | 'egress';
  readonly family: 4 | 6;
  /** The peer's address as bytes. */
  readonly peer: Buffer;
  readonly protocol: number;
  /** Destination port, or ICMP type. */
  readonly port: number;
  /** Source port; 0 for protocols without. */
  readonly sourcePort: number;
  /** Judged by the identity that the overlay brought, not by the address. */
  readonly overlay: boolean;
}

interface Change {
  readonly family: number;
  readonly orig: Buffer;
  readonly zone: Buffer | undefined;
  readonly state: number;
}

/** Labels what `denied` says and takes the label from what it no longer says. @returns connections cut now */
export async function cutWithdrawn(socket: NetlinkSocket, denied: (flow: JudgedFlow) => boolean): Promise<number> {
  const changes: Change[] = [];
  const header = Uint8Array.of(0, 0, 0, 0);
  await socket.dump({ type: SUBSYSTEM | 1, body: header, operation: 'read connections' }, (message) => {
    const change = changeOf(message.body, denied);
    if (change !== undefined) changes.push(change);
  });
  let count = 0;
  for (const change of changes) if ((await setState(socket, change)) && change.state === BIT.withdrawn) count++;
  return count;
}

function changeOf(body: Buffer, denied: (flow: JudgedFlow) => boolean): Change | undefined {
  const attributes = new Attributes(body, 4);
  const label = attributes.data(CTA.labels)?.[LAST] ?? 0;
  if ((label & (BIT.ingress | BIT.egress)) === 0) return undefined;
  const orig = attributes.data(CTA.orig);
  const family = body[0] as number;
  if (orig === undefined || (family !== AF_INET && family !== AF_INET6)) return undefined;
  const cut = flowsOf(attributes, label, family === AF_INET ? 4 : 6).some(denied);
  const passed = BIT.passed | ((label & BIT.egress) === 0 ? 0 : BIT.passedOut);
  const state = cut ? BIT.withdrawn : passed;
  if ((label & STATE_BITS) === state) return undefined;
  return { family, orig, zone: attributes.data(CTA.zone), state };
}

function flowsOf(attributes: Attributes, label: number, family: 4 | 6): JudgedFlow[] {
  const flows: JudgedFlow[] = [];
  const overlay = (label & BIT.overlay) !== 0;
  const original = attributes.nested(CTA.orig);
  const reply = attributes.nested(CTA.reply);
  if ((label & BIT.ingress) !== 0 && original !== undefined) {
    const peer = original.nested(1)?.data(family === 4 ? 1 : 3);
    if (peer !== undefined) flows.push({ direction: 'ingress', family, peer, overlay, ...portsOf(original) });
  }
  if ((label & BIT.egress) !== 0 && original !== undefined && reply !== undefined) {
    // Judged after translation: the peer is who answers, on the port that it answers from.
    const peer = reply.nested(1)?.data(family === 4 ? 1 : 3);
    const to = portsOf(original);
    const translated = isIcmp(to.protocol) ? to : { ...to, port: portsOf(reply).sourcePort };
    if (peer !== undefined) flows.push({ direction: 'egress', family, peer, overlay: false, ...translated });
  }
  return flows;
}

function isIcmp(protocol: number): boolean {
  return protocol === 1 || protocol === 58;
}

function portsOf(tuple: Attributes): { protocol: number; port: number; sourcePort: number } {
  const proto = tuple.nested(2);
  const protocol = proto?.u8(1) ?? 0;
  if (isIcmp(protocol)) return { protocol, port: proto?.u8(protocol === 1 ? 5 : 8) ?? 0, sourcePort: 0 };
  return { protocol, port: proto?.u16be(3) ?? 0, sourcePort: proto?.u16be(2) ?? 0 };
}

async function setState(socket: NetlinkSocket, change: Change): Promise<boolean> {
  const writer = new AttributeWriter(256);
  writer.raw(Uint8Array.of(change.family, 0, 0, 0));
  writer.data(CTA.orig | NESTED, change.orig);
  if (change.zone !== undefined) writer.data(CTA.zone, change.zone);
  const label = new Uint8Array(16);
  label[LAST] = change.state;
  writer.data(CTA.labels, label);
  const mask = new Uint8Array(16);
  mask[LAST] = STATE_BITS;
  writer.data(CTA.labelsMask, mask);
  try {
    await socket.request({ type: SUBSYSTEM, flags: NLM_F_ACK, body: writer.bytes(), operation: 'label connection' });
    return true;
  } catch (error) {
    if (error instanceof NetlinkError && error.errnoName === 'ENOENT') return false;
    throw error;
  }
}
