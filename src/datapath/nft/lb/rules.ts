import { choiceOf, REFUSE, SIZES, STICKY_SIZES } from '../../lb/sizes.ts';
import { PROTOCOLS, slotMap } from './keys.ts';

/** There exactly when packets are led. A hook for address translation costs every connection, whatever its rules. */
export const LB_CHAIN = 'lb_out';
/** There exactly when packets are only refused. */
export const REFUSE_CHAIN = 'lb_refuse_out';
/** Those that translate: without one the kernel no longer translates the connections that there are. */
export const LB_HOOK_CHAINS: readonly string[] = [LB_CHAIN, 'lb_in'];

/**
 * Services. Two lookups for each new connection, however many services there are, and none for any later packet:
 *
 *   lb_services4     address . protocol . port ──▶ number of slots, and how one is chosen (`sizes.ts`)
 *   lb_tcp4, ...     address . port . slot     ──▶ address . port
 *
 * What the machine itself sends is translated as it leaves its socket, what its containers send as it enters the host. Not
 * what comes from outside: the machine is no way into a cluster. Policy looks at what leaves, so it sees the real backend.
 */
export const LB_MAPS = ([4, 6] as const)
  .map((family) => {
    const address = family === 4 ? 'ip daddr' : 'ip6 daddr';
    // Only `typeof` can say what numgen gives, and then the port must be one of a protocol: so each has a map of its own.
    const slots = PROTOCOLS.map(
      (name) => `
  map ${slotMap(name, family)} { typeof ${address} . ${name} dport . numgen random mod 65536 : ${address} . ${name} dport; }`,
    );
    return `
  map lb_services${family} { type ipv${family}_addr . inet_proto . inet_service : mark; counter; }${slots.join('')}
`;
  })
  .join('');

// The mark is scratch space on the way: given back before the packet goes on (as `keepingMark` does for the policy).
const GIVE_BACK = `meta mark set 0
    meta mark set ct id map @kept`;

function chooser(family: 4 | 6, size: number, sticky: boolean): string {
  const ip = family === 4 ? 'ip' : 'ip6';
  const choice = sticky ? `jhash ${ip} saddr` : 'numgen random';
  const ways = PROTOCOLS.map((name) => {
    const slot = `${ip} daddr . ${name} dport . ${choice} mod ${size}`;
    return `
    meta l4proto ${name} dnat ${ip} to ${slot} map @${slotMap(name, family)}`;
  });
  return `
  chain ${nameOf(family, size, sticky)} {
    ${GIVE_BACK}${ways.join('')}
    drop
  }`;
}

function nameOf(family: 4 | 6, size: number, sticky: boolean): string {
  return `lb${sticky ? '_sticky' : ''}${family}_${size}`;
}

function family(version: 4 | 6): string {
  const all = [
    ...SIZES.map((size) => ({ size, sticky: false })),
    ...STICKY_SIZES.map((size) => ({ size, sticky: true })),
  ];
  const ways = all.map(({ size, sticky }) => `${choiceOf(size, sticky)} : goto ${nameOf(version, size, sticky)}`);
  const ip = version === 4 ? 'ip' : 'ip6';
  return `${all.map(({ size, sticky }) => chooser(version, size, sticky)).join('')}
  chain lb_pick${version} {
    meta mark set ${ip} daddr . meta l4proto . th dport map @lb_services${version}
    meta mark vmap { ${ways.join(', ')}, ${REFUSE} : goto lb_refuse }
  }`;
}

const REFUSAL = `
  chain lb_refuse {
    jump no_backend_out
    ${GIVE_BACK}
    meta l4proto 6 reject with tcp reset
    reject with icmpx port-unreachable
  }`;

/** A foreign mark is put aside and given back. */
const ENTRY = `
  chain lb_marked {
    delete @kept { ct id : meta mark }
    add @kept { ct id : meta mark }
    meta mark set 0
    meta nfproto vmap { 2 : jump lb_pick4, 10 : jump lb_pick6 }
    ${GIVE_BACK}
  }
  chain lb {
    meta mark != 0 goto lb_marked
    meta nfproto vmap { 2 : goto lb_pick4, 10 : goto lb_pick6 }
  }
`;

function refusalOf(version: 4 | 6): string {
  const ip = version === 4 ? 'ip' : 'ip6';
  return `
  chain lb_pick${version} {
    meta mark set ${ip} daddr . meta l4proto . th dport map @lb_services${version}
    meta mark ${REFUSE} goto lb_refuse
    meta mark set 0
  }`;
}

/** What the packets have to do for services: lead connections to backends, or refuse those that have none. */
export type PacketServices = 'none' | 'refuse' | 'lead';

const PARTS: Readonly<Record<Exclude<PacketServices, 'none'>, { chains: string; hooks: string }>> = {
  lead: {
    chains: `${REFUSAL}${family(4)}${family(6)}${ENTRY}`,
    hooks: `
  chain ${LB_CHAIN} {
    type nat hook output priority -100; policy accept;
    meta l4proto { 6, 17, 132 } jump lb
  }
  chain lb_in {
    type nat hook prerouting priority -100; policy accept;
    iifname @external accept
    iifname @overlay accept
    meta l4proto { 6, 17, 132 } jump lb
  }
`,
  },
  refuse: {
    chains: `${REFUSAL}${refusalOf(4)}${refusalOf(6)}${ENTRY}`,
    hooks: `
  chain ${REFUSE_CHAIN} {
    type filter hook output priority -100; policy accept;
    ct state new meta l4proto { 6, 17, 132 } jump lb
  }
`,
  },
};

export function lbParts(services: PacketServices): { readonly chains: string; readonly hooks: string } {
  return services === 'none' ? { chains: '', hooks: '' } : PARTS[services];
}

/** The rules of every way, for whoever wants to know whether they are the same. */
export const LB_TEXT =
  LB_MAPS +
  Object.values(PARTS)
    .map(({ chains, hooks }) => chains + hooks)
    .join('');

export const LB_MAP_NAMES: readonly string[] = [...LB_MAPS.matchAll(/^ {2}map (\w+)/gm)].map(([, name]) => name ?? '');
