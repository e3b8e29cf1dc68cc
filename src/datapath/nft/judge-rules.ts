import { SHARDS } from './names.ts';

/**
 * How a packet is judged: address ─▶ identity ─▶ class ─▶ verdict (return or drop), in chains of static rules.
 *
 *   judge    ─▶ peer4_7    the map of single addresses, one of 32
 *               │ unknown: prefix4, then the world
 *               ▼
 *            class_of    the class of the identity, else that of all others
 *               ▼
 *            verdict     exact port, range, ICMP type, protocol, anything
 *
 * What most packets find comes first, and what is found is not looked for again: a lookup that finds nothing ends its rule,
 * and the next rule is what to do then.
 */
export type Side = 'in' | 'out';

interface Way {
  /** Where the peer's address is. */
  readonly peer: 'saddr' | 'daddr';
  /** Whose policy it is. */
  readonly policy: Side;
  /** Where the port that the policy speaks of is. */
  readonly port: 'dport' | 'sport';
}

/** An answer is judged by the policy of the other direction, with source and destination exchanged. */
const WAYS = {
  in: { peer: 'saddr', policy: 'in', port: 'dport' },
  out: { peer: 'daddr', policy: 'out', port: 'dport' },
  answer_in: { peer: 'saddr', policy: 'out', port: 'sport' },
  answer_out: { peer: 'daddr', policy: 'in', port: 'sport' },
} as const satisfies Record<string, Way>;

export type WayName = keyof typeof WAYS;

const FAMILIES = [
  { family: 4, ip: 'ip', address: (shard: number) => `0.0.0.${shard}` },
  { family: 6, ip: 'ip6', address: (shard: number) => `::${shard.toString(16)}` },
] as const;

/**
 * Sends the first packet of a connection straight to its judgement, past all that such a packet cannot be: an answer, related to
 * something, withdrawn, or (ports of the set `exempt`, which has those of every protocol) exempt. What has no connection ends the
 * rule at once. What is sent back to refuse a first packet shares its connection, which is not confirmed yet: it is no new one.
 */
export function firstPacket(side: Side): string {
  return `ct state new ct status & confirmed == 0 th dport != @exempt_${side} goto new_${side}`;
}

/** Leads to the map of the peer's address. After `jump` an allowed packet comes back. */
export function toPeer(name: WayName, verb: 'jump' | 'goto'): string {
  const rules = FAMILIES.map(({ family, ip, address }) => {
    const ways = SHARDS.map((shard) => `${address(shard)} : ${verb} peer${family}_${name}_${shard}`);
    return `${ip} ${WAYS[name].peer} & ${address(SHARDS.length - 1)} vmap { ${ways.join(', ')} }`;
  });
  return rules.join('\n    ');
}

/** The chains of one way; `judge_NAME` is where it begins, `class_of_NAME` where it goes on with an identity as the mark. */
export function judgeChains(name: WayName): string {
  return `${verdict(name)}${identities(name)}
  chain judge_${name} {
    ${toPeer(name, 'goto')}
  }`;
}

function identities(name: WayName): string {
  const { peer, policy } = WAYS[name];
  const peers = FAMILIES.map(({ family, ip }) => {
    const single = SHARDS.map(
      (shard) => `
  chain peer${family}_${name}_${shard} {
    meta mark set ${ip} ${peer} map @host${family}_${shard} goto class_of_${name}
    goto prefix${family}_${name}
  }`,
    );
    return `
  chain prefix${family}_${name} {
    meta mark set ${ip} ${peer} map @cidr${family} goto class_of_${name}
    meta mark set meta nfproto map @world
    goto class_of_${name}
  }${single.join('')}`;
  });
  return `
  chain class_of_${name} {
    meta mark set meta mark map @class_${policy} goto verdict_${name}
    meta mark set meta nfproto map @others_${policy}
    goto verdict_${name}
  }${peers.join('')}`;
}

// Only rows of protocols that have ports are in the first two maps: they need no look at the protocol before.
function verdict(name: WayName): string {
  const { policy, port } = WAYS[name];
  const icmp = `
    meta nfproto ipv4 meta mark . icmp type vmap @icmp4_${policy}
    meta nfproto ipv6 meta mark . icmpv6 type vmap @icmp6_${policy}`;
  return `
  chain verdict_${name} {
    meta mark . meta l4proto . th ${port} vmap @port_${policy}
    meta mark . meta l4proto . th ${port} vmap @range_${policy}${port === 'dport' ? icmp : ''}
    meta mark . meta l4proto vmap @proto_${policy}
    meta mark vmap @all_${policy}
    goto no_rule_${policy}
  }`;
}
