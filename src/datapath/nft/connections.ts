import type { Attributes } from '../../host/attributes.ts';
import { eachConnection, endOf, type TrackedConnection } from '../../host/connections.ts';
import type { KernelConnection } from '../connection.ts';
import { LABEL } from './names.ts';

/** All our label bits are in the last byte. */
const LAST = 15;
const bit = (label: number): number => 1 << (label - LAST * 8);
/** Of nf_conntrack_common.h: somebody has answered. */
const SEEN_REPLY = 1 << 1;
/** TIME_WAIT, CLOSE, LAST_ACK of nf_conntrack_tcp.h. */
const CLOSING: ReadonlySet<number> = new Set([6, 7, 8]);

/** The connections of connection tracking that the rules have judged. Throws NetlinkError. */
export async function dumpConnections(): Promise<KernelConnection[]> {
  const found: KernelConnection[] = [];
  await eachConnection((tracked) => {
    const connection = connectionOf(tracked);
    if (connection !== undefined) found.push(connection);
  });
  return found;
}

function connectionOf(tracked: TrackedConnection): KernelConnection | undefined {
  const { version, orig, reply, labels, status, tcpState, timeout } = tracked;
  const label = labels?.[LAST] ?? 0;
  const ingress = (label & bit(LABEL.ingress)) !== 0;
  if (!ingress && (label & bit(LABEL.egress)) === 0) return undefined;
  // As on the wire: what leaves is seen after all translation, what enters before any.
  const tuple: Attributes | undefined = ingress ? orig : reply;
  const source = endOf(tuple, version, 'source');
  const destination = endOf(tuple, version, 'destination');
  if (source === undefined || destination === undefined) return undefined;
  const withdrawn = (label & bit(LABEL.withdrawn)) !== 0;
  const closing = tcpState !== undefined && CLOSING.has(tcpState);
  const state = withdrawn ? 'denied' : closing ? 'closing' : (status & SEEN_REPLY) === 0 ? 'opening' : 'open';
  return {
    direction: ingress ? 'ingress' : 'egress',
    protocol: source.protocol,
    remote: { address: source.address, port: source.port },
    local: { address: destination.address, port: destination.port },
    state,
    expiresIn: timeout,
  };
}
