import { type Address, contains, formatAddress, formatPrefix, type Prefix } from '../../core/ip.ts';
import type { Node, NodeAddress } from '../../kvstore/codec/node.ts';
import { wholeAddress } from '../workloads/prefix-index.ts';
import { rangesOf, registrationLabels, type Workload } from '../workloads/workload.ts';

/** An address that a machine reported and must not have. */
export interface RefusedAddress {
  readonly address: string;
  readonly type: string;
  readonly reason: string;
}

export interface Review {
  readonly accepted: readonly NodeAddress[];
  readonly health: readonly Address[];
  readonly refused: readonly RefusedAddress[];
  /** What the machine says of itself and is not so, in words. It is told again, and nothing of it is published. */
  readonly claims: readonly string[];
}

export interface ReviewOptions {
  readonly workload: Workload;
  readonly cluster: { readonly name: string; readonly id: number };
  readonly identity: number;
  readonly reported: Node;
  /** Why this machine must not have this address; undefined when it may. */
  readonly objection: (address: Address) => string | undefined;
}

const TYPES = new Set(['InternalIP', 'ExternalIP', 'CiliumInternalIP']);
const MAX_ADDRESSES = 16;
const MAX_REFUSED = 16;
const MAX_CLAIMS = 8;

/** Looks at what a machine wrote in the second phase. Pure. */
export function review(options: ReviewOptions): Review {
  const { workload, reported, objection } = options;
  const accepted: NodeAddress[] = [];
  const refused: RefusedAddress[] = [];
  const refuse = ({ type, address }: NodeAddress, reason: string): void => {
    const text = formatAddress(address);
    // A machine that reports thousands must not fill the store with reasons.
    if (refused.length < MAX_REFUSED && !refused.some((each) => each.address === text))
      refused.push({ address: text, type: type.slice(0, 32), reason });
  };
  const seen = new Set<string>();
  for (const each of reported.addresses) {
    const text = formatAddress(each.address);
    if (seen.has(text)) continue;
    seen.add(text);
    const reason =
      accepted.length >= MAX_ADDRESSES
        ? `a machine has at most ${MAX_ADDRESSES} addresses`
        : (typeObjection(each, workload) ?? notUnicast(each.address) ?? objection(each.address));
    if (reason === undefined) accepted.push(each);
    else refuse(each, reason);
  }
  const health = reported.healthAddresses.filter((address) =>
    rangesOf(workload).some((range) => holds(range, address)),
  );
  for (const address of reported.healthAddresses)
    if (!health.includes(address))
      refuse({ type: 'health', address }, 'a health address lies in the range of the workload');
  return { accepted, health, refused, claims: claimsOf(options) };
}

/** An address that a machine cannot have, whoever it is. */
export function notUnicast({ family, words }: Address): string | undefined {
  const first = words[0] ?? 0;
  if (family === 4) {
    if (first >>> 24 === 0) return 'it names no machine';
    if (first >>> 24 === 127) return 'it is a loopback address';
    if (first >>> 16 === 0xa9fe) return 'it is a link-local address';
    if (first >>> 28 === 14) return 'it is a multicast address';
    return first >>> 28 === 15 ? 'it is reserved' : undefined;
  }
  if (first >>> 24 === 0xff) return 'it is a multicast address';
  if (first >>> 22 === 0x3fa) return 'it is a link-local address';
  // Unspecified, loopback, and IPv4 in disguise.
  if (first === 0 && words[1] === 0) return 'it is no unicast address of a machine';
  return undefined;
}

function typeObjection({ type, address }: NodeAddress, workload: Workload): string | undefined {
  if (!TYPES.has(type)) return `its type ${JSON.stringify(type.slice(0, 32))} is none that machines have`;
  if (type !== 'CiliumInternalIP' || rangesOf(workload).some((range) => holds(range, address))) return undefined;
  return 'a router address lies in the range of the workload';
}

function holds(range: Prefix, address: Address): boolean {
  return contains(range, wholeAddress(address));
}

function claimsOf({ workload, cluster, identity, reported }: ReviewOptions): string[] {
  const claims: string[] = [];
  const claim = (what: string, claimed: string, real: string): void => {
    if (claimed !== real) claims.push(`it claims ${what} ${cut(claimed)} instead of ${cut(real)}`);
  };
  claim('cluster', reported.cluster, cluster.name);
  claim('cluster id', String(reported.clusterId), String(cluster.id));
  claim('identity', String(reported.nodeIdentity), String(identity));
  claim('labels', sortedLabels(reported.labels), sortedLabels(registrationLabels(workload, cluster.name)));
  const ranges = (prefixes: readonly Prefix[]): string => prefixes.map(formatPrefix).join(', ') || 'none';
  claim('ranges', ranges([...reported.ranges4, ...reported.ranges6]), ranges(rangesOf(workload)));
  if (reported.ingressAddresses.length > 0)
    claim('ingress addresses', reported.ingressAddresses.map(formatAddress).join(', '), 'none');
  return claims.slice(0, MAX_CLAIMS);
}

function sortedLabels(labels: ReadonlyMap<string, string>): string {
  const sorted = [...labels].sort(([a], [b]) => (a < b ? -1 : 1));
  return sorted.map(([key, value]) => (value === '' ? key : `${key}=${value}`)).join(', ') || 'none';
}

function cut(text: string): string {
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}
