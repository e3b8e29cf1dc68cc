import { createHash } from 'node:crypto';
import { firstPacket, judgeChains, type Side, toPeer, type WayName } from './judge-rules.ts';
import { LB_HOOK_CHAINS, LB_MAPS, LB_TEXT, lbParts, type PacketServices } from './lb/rules.ts';
import { NAME_HOOKS } from './name-rules.ts';
import { LABEL, SHARDS, TABLE } from './names.ts';
import { OVERLAY_CHAINS, OVERLAY_HOOKS } from './overlay-rules.ts';
import { type Telling, VERDICT_SETS, verdictChains, verdictCounters } from './verdict-rules.ts';

/**
 * The text of the table. Rules are static; addresses, identities, policy and border live in the elements of maps.
 *
 *   enters (-160):  judged before? ─▶ accept          leaves (310): the same with new_out and leaving
 *                   no external device? ─▶ accept
 *                   first packet to an ordinary port? ─▶ new_in
 *                   anything else ─▶ entering
 *
 *   entering: overlay's outer packets, withdrawn, related, exemptions, then new_in
 *   new_in: judged (`judge-rules.ts`), labelled, told of if somebody follows
 *
 * An entry of connection tracking that has none of our labels was made without us, or before a device became external: its
 * packets are judged one by one, answers by the policy of the other direction with source and destination exchanged.
 */

// Without a size the kernel's tables grow as they fill; a size would cost its memory at once (21 MB for two million).
const MAPS = `${hostMaps()}
  map cidr4 { type ipv4_addr : mark; flags interval; }
  map cidr6 { type ipv6_addr : mark; flags interval; }
  map world { type nf_proto : mark; }
  map kept { typeof ct id : meta mark; flags dynamic,timeout; timeout 2s; size 1000000; }
  set external { type ifname; }
  set overlay { type ifname; }
  set tunnel { type inet_service; }
  set nodes4 { type ipv4_addr; }
  set nodes6 { type ipv6_addr; }
  set failsafe_in { type inet_proto . inet_service; }
  set failsafe_out { type inet_proto . inet_service; }
  set exempt_in { type inet_service; }
  set exempt_out { type inet_service; }
  set stores4 { type ipv4_addr . inet_service; }
  set stores6 { type ipv6_addr . inet_service; }${VERDICT_SETS}
${directionMaps('in')}${directionMaps('out')}`;

function directionMaps(side: Side): string {
  return `
  map class_${side} { type mark : mark; }
  map others_${side} { type nf_proto : mark; }
  map port_${side} { type mark . inet_proto . inet_service : verdict; counter; }
  map range_${side} { type mark . inet_proto . inet_service : verdict; flags interval; counter; }
  map icmp4_${side} { type mark . icmp_type : verdict; counter; }
  map icmp6_${side} { type mark . icmpv6_type : verdict; counter; }
  map proto_${side} { type mark . inet_proto : verdict; counter; }
  map all_${side} { type mark : verdict; counter; }
`;
}

function hostMaps(): string {
  return SHARDS.map(
    (shard) => `
  map host4_${shard} { type ipv4_addr : mark; }
  map host6_${shard} { type ipv6_addr : mark; }`,
  ).join('');
}

/** The mark is our scratch space while a packet is judged; a foreign one is put aside and given back. */
function keepingMark(name: string, way: WayName, after: string): string {
  return `
  chain marked_${name} {
    delete @kept { ct id : meta mark }
    add @kept { ct id : meta mark }
    jump judge_${way}
    meta mark set 0
    meta mark set ct id map @kept
    delete @kept { ct id : meta mark }
    ${after}
  }
  chain ${name} {
    meta mark != 0 goto marked_${name}
    ${toPeer(way, 'jump')}
    meta mark set 0
    ${after}
  }`;
}

function judgement(side: Side): string {
  const other = side === 'in' ? 'out' : 'in';
  const labels = [LABEL.passed, ...(side === 'in' ? [LABEL.ingress] : [LABEL.passedOut, LABEL.egress])];
  const passes = `ct label set ${labels.join(' | ')}
    meta nfproto @watched jump allowed_${side}
    accept`;
  return `${judgeChains(side)}${judgeChains(`answer_${side}`)}
  chain passed_${side} {
    ${passes}
  }
${keepingMark(`new_${side}`, side, passes)}
${keepingMark(`judged_answer_${side}`, `answer_${side}`, 'accept')}
  chain answer_${side} {
    meta l4proto { 1, 58 } accept
    meta l4proto . th sport @failsafe_${other} accept
    ${side === 'in' ? stores('saddr', 'sport', 'accept') : ''}
    goto judged_answer_${side}
  }`;
}

function stores(address: 'saddr' | 'daddr', port: 'sport' | 'dport', verdict: string): string {
  return `meta l4proto 6 ip ${address} . th ${port} @stores4 ${verdict}
    meta l4proto 6 ip6 ${address} . th ${port} @stores6 ${verdict}`;
}

/** An error about a connection belongs to the connection; a connection that a helper expected is one of its own. */
const RELATED = `ct state related meta l4proto { 1, 58 } accept
    ct state related ct label set ${LABEL.passed} | ${LABEL.passedOut} accept`;

const NEIGHBOURS = `icmpv6 type { 130, 131, 132, 133, 134, 135, 136, 143 } accept`;
const TOO_BIG = `icmp type destination-unreachable icmp code 4 accept
    icmpv6 type packet-too-big accept`;

// Chains without a hook: they judge nothing until the base chains lead here.
const CHAINS = `${judgement('in')}${judgement('out')}
  chain outer_in {
    ip saddr @nodes4 accept
    ip6 saddr @nodes6 accept
    goto stranger_in
  }
  chain outer_out {
    ct state untracked ip daddr @nodes4 accept
    ct state untracked ip6 daddr @nodes6 accept
    ip daddr @nodes4 goto spoofed_out
    ip6 daddr @nodes6 goto spoofed_out
  }
  chain entering {
    udp dport @tunnel goto outer_in
    ct label ${LABEL.withdrawn} goto withdrawn_in
    ${RELATED}
    ${NEIGHBOURS}
    ${TOO_BIG}
    ct direction reply goto answer_in
    udp sport 67 udp dport 68 goto passed_in
    udp sport 547 udp dport 546 goto passed_in
    meta l4proto . th dport @failsafe_in goto passed_in
    goto new_in
  }
  chain leaving {
    udp dport @tunnel jump outer_out
    ct label ${LABEL.withdrawn} goto withdrawn_out
    ${RELATED}
    ${NEIGHBOURS}
    ${TOO_BIG}
    ct direction reply goto answer_out
    udp sport 68 udp dport 67 goto passed_out
    udp sport 546 udp dport 547 goto passed_out
    meta l4proto . th dport @failsafe_out goto passed_out
    ${stores('daddr', 'dport', 'goto passed_out')}
    goto new_out
  }
`;

// A packet that leaves may have got `passed` a moment ago, when it entered: only an earlier packet can have got it when
// the connection is established.
const HOOKS = `
  chain enter {
    type filter hook prerouting priority -160; policy accept;
    ct label ${LABEL.passed} accept
    iifname != @external accept
    ${firstPacket('in')}
    goto entering
  }
  chain leave {
    type filter hook postrouting priority 310; policy accept;
    ct state established ct label ${LABEL.passed} accept
    ct label ${LABEL.passedOut} accept
    oifname != @external accept
    ${firstPacket('out')}
    goto leaving
  }
`;

export interface MapsOptions {
  /** Also those of services. */
  readonly services: boolean;
  readonly telling: Telling;
  /** Chains in the kernel. */
  readonly present: readonly string[];
  /** Where counters that are made anew begin. */
  readonly counted: ReadonlyMap<string, { packets: number; bytes: number }>;
}

/** Maps, sets, counters and the chains that elements lead to; nothing happens to those that are there. */
export function mapsText({ services, telling, present, counted }: MapsOptions): string {
  const chains = verdictChains(telling, present);
  return `table inet ${TABLE} {${verdictCounters(counted)}\n${MAPS}${services ? LB_MAPS : ''}${chains}\n}\n`;
}

/** The parts that are there only when they are asked for, so that nobody else pays for their hooks. */
export interface RulesShape {
  /** False: packets are judged by another data path, and only led or refused here. */
  readonly judges: boolean;
  readonly overlay: boolean;
  readonly names: boolean;
  readonly services: PacketServices;
  readonly telling: Telling;
}

/** All chains, in one transaction: from here on packets are judged. `present` are the chains in the kernel. */
export function rulesText(options: RulesShape & { present: readonly string[] }): string {
  const { judges, overlay, names, services } = options;
  const lb = lbParts(services);
  const inner = `${verdictChains(options.telling)}${CHAINS}${overlay ? OVERLAY_CHAINS : ''}${lb.chains}`;
  const hooks = `${judges ? HOOKS : ''}${overlay ? OVERLAY_HOOKS : ''}${names ? NAME_HOOKS : ''}${lb.hooks}`;
  const text = `table inet ${TABLE} {\n${inner}${hooks}}\n`;
  const ours = new Set([...text.matchAll(/^ {2}chain (\w+)/gm)].map(([, name]) => name));
  const { present } = options;
  return [
    ...present.map((chain) => `flush chain inet ${TABLE} ${chain}\n`),
    ...present.filter((chain) => !ours.has(chain)).map((chain) => `delete chain inet ${TABLE} ${chain}\n`),
    text,
  ].join('');
}

/** Names the text of this version. */
const VERSION = createHash('sha256')
  .update(verdictChains({ rate: 1 }) + MAPS + CHAINS + HOOKS + OVERLAY_CHAINS + OVERLAY_HOOKS + NAME_HOOKS + LB_TEXT)
  .digest('hex')
  .slice(0, 16);

const SERVICES_MARK = { none: '', refuse: '_refuse', lead: '_services' } as const;

/** An empty chain of this name tells which text the rules came from and what they looked like in the kernel then. */
export function stampOf(of: RulesShape & { digest: string }): string {
  const { judges, overlay, names, services, telling, digest } = of;
  const parts = `${judges ? '' : 'unjudged_'}${overlay ? 'overlay' : 'plain'}${names ? '_names' : ''}${SERVICES_MARK[services]}_${telling.rate}`;
  return `${STAMP_PREFIX}${VERSION}_${parts}_${digest}`;
}

export const STAMP_PREFIX = 'stamp_';

export function stampText(stamp: string): string {
  return `add chain inet ${TABLE} ${stamp}\n`;
}

/** Takes everything of ours away; no error if there is nothing. */
export function removalText(): string {
  return `add table inet ${TABLE}\ndelete table inet ${TABLE}\n${NO_ARRIVAL}`;
}

/**
 * Takes the maps of services away, with all that leads to them. Their hooks stay, empty: without one the kernel no longer
 * translates the connections that there are.
 */
export function lbRemovalText({ chains, maps }: { chains: readonly string[]; maps: readonly string[] }): string {
  const ours = chains.filter((name) => /^lb(_|[46]_|$)/.test(name));
  return [
    ...ours.map((name) => `flush chain inet ${TABLE} ${name}\n`),
    ...ours.filter((name) => !LB_HOOK_CHAINS.includes(name)).map((name) => `delete chain inet ${TABLE} ${name}\n`),
    ...maps.map((name) => `delete map inet ${TABLE} ${name}\n`),
  ].join('');
}

/** Bound to a device, so it comes and goes with the device. */
export const ARRIVAL_CHAIN = 'arrive';

// A packet's type can be set in family netdev alone: in family inet the kernel answers EOPNOTSUPP.
const NO_ARRIVAL = `add table netdev ${TABLE}\ndelete table netdev ${TABLE}\n`;

/** Frames that the overlay brings have a foreign destination address: without this they are dropped on arrival. */
export function arrivalText(options: { device: string | undefined; present: boolean }): string {
  if (options.device === undefined) return options.present ? NO_ARRIVAL : '';
  const rule = `type filter hook ingress device "${options.device}" priority 0; policy accept; meta pkttype set host;`;
  return `${NO_ARRIVAL}table netdev ${TABLE} { chain ${ARRIVAL_CHAIN} { ${rule} }; }\n`;
}
