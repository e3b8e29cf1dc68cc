import { createHash } from 'node:crypto';

/** The one table of ours, family `inet`. Nothing outside of it is ever touched. */
export const TABLE = 'mesh_agent';

/** Class numbers have this bit; identities never do, so that one kind cannot be taken for the other. */
export const CLASS_BIT = 0x8000_0000;
/** The class of every identity without a row of its own. */
export const UNKNOWN_CLASS = CLASS_BIT;

/** Bits of the connection label that are ours. */
export const LABEL = { withdrawn: 120, ingress: 121, egress: 122, overlay: 123 } as const;

const MAPS = `
  map host4 { type ipv4_addr : mark; size 2000000; }
  map host6 { type ipv6_addr : mark; size 2000000; }
  map cidr4 { type ipv4_addr : mark; flags interval; }
  map cidr6 { type ipv6_addr : mark; flags interval; }
  map world { type nf_proto : mark; }
  map miss { type nf_proto : verdict; }
  map kept { typeof ct id : meta mark; flags dynamic,timeout; timeout 5s; size 65536; }
  set external { type ifname; }
  set overlay { type ifname; }
  set tunnel { type inet_service; }
  set nodes4 { type ipv4_addr; size 200000; }
  set nodes6 { type ipv6_addr; size 200000; }
  set failsafe_in { type inet_proto . inet_service; }
  set failsafe_out { type inet_proto . inet_service; }
  set stores4 { type ipv4_addr . inet_service; }
  set stores6 { type ipv6_addr . inet_service; }
  counter denied_in { }
  counter denied_out { }
  counter cut { }
${directionMaps('in')}${directionMaps('out')}`;

function directionMaps(side: 'in' | 'out'): string {
  return `
  map class_${side} { type mark : mark; size 200000; }
  map port_${side} { type mark . inet_proto . inet_service : verdict; size 2000000; counter; }
  map range_${side} { type mark . inet_proto . inet_service : verdict; flags interval; counter; }
  map icmp4_${side} { type mark . icmp_type : verdict; size 200000; counter; }
  map icmp6_${side} { type mark . icmpv6_type : verdict; size 200000; counter; }
  map proto_${side} { type mark . inet_proto : verdict; size 200000; counter; }
  map all_${side} { type mark : verdict; size 200000; counter; }
`;
}

function judge(side: 'in' | 'out'): string {
  const peer = side === 'in' ? 'saddr' : 'daddr';
  return `
  chain class_of_${side} {
    meta mark set meta mark map @class_${side}
    meta mark < ${CLASS_BIT} meta mark set ${UNKNOWN_CLASS}
    meta l4proto { 6, 17, 132 } meta mark . meta l4proto . th dport vmap @port_${side}
    meta l4proto { 6, 17, 132 } meta mark . meta l4proto . th dport vmap @range_${side}
    meta nfproto ipv4 meta mark . icmp type vmap @icmp4_${side}
    meta nfproto ipv6 meta mark . icmpv6 type vmap @icmp6_${side}
    meta mark . meta l4proto vmap @proto_${side}
    meta mark vmap @all_${side}
    counter name denied_${side}
    meta nfproto vmap @miss
    drop
  }
  chain judge_${side} {
    meta mark set meta nfproto map @world
    meta mark set ip ${peer} map @cidr4
    meta mark set ip ${peer} map @host4
    meta mark set ip6 ${peer} map @cidr6
    meta mark set ip6 ${peer} map @host6
    jump class_of_${side}
  }
  chain marked_${side} {
    update @kept { ct id : meta mark }
    jump judge_${side}
    ct label set ${side === 'in' ? LABEL.ingress : LABEL.egress}
    meta mark set 0
    meta mark set ct id map @kept
  }
  chain new_${side} {
    meta mark != 0 goto marked_${side}
    jump judge_${side}
    ct label set ${side === 'in' ? LABEL.ingress : LABEL.egress}
    meta mark set 0
  }
`;
}

const NEIGHBOURS = 'icmpv6 type { 130, 131, 132, 133, 134, 135, 136, 143 } accept';

// Chains without a hook: they judge nothing until the base chains lead here, so a half-loaded table is harmless.
const CHAINS = `${judge('in')}${judge('out')}
  chain from_overlay {
    ct label ${LABEL.withdrawn} counter name cut drop
    ct state established,related meta mark set 0 accept
    ct state invalid drop
    ${NEIGHBOURS}
    meta l4proto . th dport @failsafe_in meta mark set 0 accept
    meta mark { 1, 2, 6, 7, 9, 10 } meta mark set 0
    meta mark >= 0x1000000 meta mark set 0
    meta mark 0 goto new_in
    jump class_of_in
    ct label set ${LABEL.overlay}
    ct label set ${LABEL.ingress}
    meta mark set 0
    accept
  }
  chain outer {
    ip saddr @nodes4 meta mark set @th,96,32 >> 8 accept
    ip6 saddr @nodes6 meta mark set @th,96,32 >> 8 accept
    counter name denied_in drop
  }
  chain entering {
    iifname @overlay goto from_overlay
    iifname != @external accept
    udp dport @tunnel goto outer
    ct label ${LABEL.withdrawn} counter name cut drop
    ct state established,related accept
    ct state invalid drop
    ${NEIGHBOURS}
    icmp type destination-unreachable icmp code 4 accept
    udp sport 67 udp dport 68 accept
    udp sport 547 udp dport 546 accept
    meta l4proto . th dport @failsafe_in accept
    goto new_in
  }
  chain leaving {
    ct label ${LABEL.withdrawn} counter name cut drop
    ct state established,related accept
    ${NEIGHBOURS}
    oifname @external ip daddr @nodes4 udp dport @tunnel accept
    oifname @external ip6 daddr @nodes6 udp dport @tunnel accept
    ct state invalid drop
    icmp type destination-unreachable icmp code 4 accept
    udp sport 68 udp dport 67 accept
    udp sport 546 udp dport 547 accept
    meta l4proto . th dport @failsafe_out accept
    meta l4proto 6 ip daddr . th dport @stores4 accept
    meta l4proto 6 ip6 daddr . th dport @stores6 accept
    goto new_out
  }
  chain untracked {
    iifname @external udp dport @tunnel ip saddr @nodes4 notrack
    iifname @external udp dport @tunnel ip6 saddr @nodes6 notrack
  }
  chain untracked_out {
    udp dport @tunnel ip daddr @nodes4 notrack
    udp dport @tunnel ip6 daddr @nodes6 notrack
  }
`;

const HOOKS = `
  chain raw_enter {
    type filter hook prerouting priority -300; policy accept;
    jump untracked
  }
  chain raw_output {
    type filter hook output priority -300; policy accept;
    jump untracked_out
  }
  chain enter {
    type filter hook prerouting priority -160; policy accept;
    jump entering
  }
  chain leave {
    type filter hook postrouting priority 310; policy accept;
    oifname @external jump leaving
    oifname @overlay jump leaving
  }
`;

const BASE_CHAINS = ['raw_enter', 'raw_output', 'enter', 'leave'];

/** How many rules the text makes: fewer or more in the kernel were not left by us. */
export const RULE_COUNT = (CHAINS + HOOKS)
  .split('\n')
  .filter((line) => line.startsWith('    ') && !line.trim().startsWith('type filter')).length;

/** Names the text of this version; an empty chain of this name tells that the table has it. */
export const STAMP = `stamp_${createHash('sha256')
  .update(MAPS + CHAINS + HOOKS)
  .digest('hex')
  .slice(0, 16)}`;

/** Maps, sets and chains, judging nothing yet. */
export function skeletonText(): string {
  return `table inet ${TABLE} {\n${MAPS}${CHAINS}}\n`;
}

/** The base chains and the stamp: from here on packets are judged. */
export function hooksText(): string {
  return `table inet ${TABLE} {\n${HOOKS}\n  chain ${STAMP} { }\n}\n`;
}

/** Replaces the rules of another version in one transaction; maps and what they hold stay. */
export function replacementText(present: readonly string[]): string {
  const gone = present.map((chain) => `flush chain inet ${TABLE} ${chain}\n`);
  const stale = present
    .filter((chain) => chain.startsWith('stamp_'))
    .map((chain) => `delete chain inet ${TABLE} ${chain}\n`);
  return [...gone, ...stale, skeletonText(), hooksText()].join('');
}

/** Takes the whole table away; no error if there is none. */
export function removalText(): string {
  return `add table inet ${TABLE}\ndelete table inet ${TABLE}\n`;
}

/** Frames that the overlay brings have a foreign destination address: without this they are dropped on arrival. */
export function arrivalText(device: string): string {
  return `table inet ${TABLE} { chain arrive { type filter hook ingress device "${device}" priority 0; policy accept; meta pkttype set host; }; }\n`;
}

export function isHooked(chains: readonly string[]): boolean {
  return BASE_CHAINS.every((chain) => chains.includes(chain)) && chains.includes(STAMP);
}
