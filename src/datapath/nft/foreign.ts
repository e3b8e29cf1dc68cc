import { Attributes, forEachAttribute } from '../../host/attributes.ts';
import type { NetlinkMessage, NetlinkSocket } from '../../host/netlink.ts';
import { NFT, SUBSYSTEM } from './elements.ts';
import { type RuleShape, readRule } from './foreign-rule.ts';
import { TABLE } from './names.ts';

export type NftFamily = 'inet' | 'ip' | 'arp' | 'netdev' | 'bridge' | 'ip6';

/** A chain of somebody else that the kernel calls by itself. */
export interface ForeignChain {
  readonly family: NftFamily;
  readonly table: string;
  readonly name: string;
  readonly hook: 'ingress' | 'prerouting' | 'input' | 'forward' | 'output' | 'postrouting';
  readonly priority: number;
  readonly policy: 'accept' | 'drop';
}

/** A rule of somebody else that keeps packets from passing, or from being judged. */
export interface ForeignRule extends RuleShape {
  readonly chain: ForeignChain;
  /** The chain that it stands in: the same, or one that it leads to. */
  readonly inChain: string;
  /** Packets may have been let through, or sent elsewhere, before they come here. */
  readonly conditional: boolean;
}

export interface ForeignRules {
  readonly chains: readonly ForeignChain[];
  /** At most `MAX_RULES`; `more` when there are others. */
  readonly rules: readonly ForeignRule[];
  readonly more: boolean;
}

const FAMILIES: Readonly<Record<number, NftFamily>> = {
  1: 'inet',
  2: 'ip',
  3: 'arp',
  5: 'netdev',
  7: 'bridge',
  10: 'ip6',
};
const HOOKS = ['prerouting', 'input', 'forward', 'output', 'postrouting', 'ingress'] as const;
const MAX_RULES = 1000;
const MAX_CHAINS = 10_000;
const CHAIN = { table: 1, name: 3, hook: 4, policy: 5, hookNumber: 1, hookPriority: 2 };
const RULE = { table: 1, chain: 2, expressions: 4 };
const LIST_ELEMENT = 1;

interface RawRule {
  readonly key: string;
  readonly shape: RuleShape;
}

/**
 * Reads the packet filter of others: base chains, and rules that drop, reject, bypass connection tracking or offload. Each
 * rule is looked at while it passes by; of all others nothing is kept. Throws NetlinkError.
 */
export async function readForeignRules(socket: NetlinkSocket): Promise<ForeignRules> {
  const bases = new Map<string, ForeignChain>();
  await dump(socket, NFT.getChain, (family, attributes) => {
    const chain = baseChain(family, attributes);
    if (chain !== undefined && bases.size < MAX_CHAINS) bases.set(keyOf(chain.family, chain.table, chain.name), chain);
  });
  const jumps = new Map<string, Set<string>>();
  /** Chains in which something is accepted, or left, before the rules that follow. */
  const open = new Set<string>();
  const raw: (RawRule & { readonly after: boolean })[] = [];
  let more = false;
  await dump(socket, NFT.getRule, (family, attributes) => {
    const [table, chain] = [attributes.string(RULE.table), attributes.string(RULE.chain)];
    const expressions = attributes.data(RULE.expressions);
    if (table === undefined || chain === undefined || expressions === undefined) return;
    const key = keyOf(family, table, chain);
    const list: Attributes[] = [];
    forEachAttribute(expressions, { offset: 0, end: expressions.length }, (type, start, length) => {
      if (type === LIST_ELEMENT) list.push(new Attributes(expressions, start, start + length));
    });
    const rule = readRule(list);
    if (rule.jump !== undefined) {
      const to = jumps.get(key) ?? new Set();
      jumps.set(key, to.add(keyOf(family, table, rule.jump)));
    }
    if (rule.shape === undefined) {
      if (rule.leaves) open.add(key);
    } else if (raw.length < MAX_RULES) raw.push({ key, shape: rule.shape, after: open.has(key) });
    else more = true;
  });
  return { chains: [...bases.values()], rules: place(raw, bases, jumps), more };
}

/** Gives each rule the base chains that lead to it. */
function place(
  raw: readonly (RawRule & { readonly after: boolean })[],
  bases: ReadonlyMap<string, ForeignChain>,
  jumps: ReadonlyMap<string, ReadonlySet<string>>,
): ForeignRule[] {
  const byChain = new Map<string, ForeignChain[]>();
  for (const [key, base] of bases) {
    const seen = new Set([key]);
    for (const from of seen) {
      byChain.set(from, [...(byChain.get(from) ?? []), base]);
      for (const to of jumps.get(from) ?? []) seen.add(to);
    }
  }
  return raw.flatMap(({ key, shape, after }) =>
    (byChain.get(key) ?? []).map((chain) => {
      const inChain = key.split('\0')[2] ?? '';
      return { ...shape, chain, inChain, conditional: after || inChain !== chain.name };
    }),
  );
}

function baseChain(family: NftFamily, attributes: Attributes): ForeignChain | undefined {
  const hook = attributes.nested(CHAIN.hook);
  const number = hook?.u32be(CHAIN.hookNumber);
  const [table, name] = [attributes.string(CHAIN.table), attributes.string(CHAIN.name)];
  if (hook === undefined || number === undefined || table === undefined || name === undefined) return undefined;
  const where = family === 'netdev' ? 'ingress' : HOOKS[number];
  if (where === undefined) return undefined;
  const priority = (hook.u32be(CHAIN.hookPriority) ?? 0) | 0;
  return {
    family,
    table,
    name,
    hook: where,
    priority,
    policy: attributes.u32be(CHAIN.policy) === 0 ? 'drop' : 'accept',
  };
}

async function dump(
  socket: NetlinkSocket,
  type: number,
  visit: (family: NftFamily, attributes: Attributes) => void,
): Promise<void> {
  const onMessage = (message: NetlinkMessage): void => {
    const family = FAMILIES[message.body[0] ?? 0];
    const attributes = new Attributes(message.body, 4);
    // Table is attribute 1 of chains and rules alike.
    if (family !== undefined && attributes.string(CHAIN.table) !== TABLE) visit(family, attributes);
  };
  await socket.dump(
    { type: SUBSYSTEM | type, body: Uint8Array.of(0, 0, 0, 0), operation: 'read the packet filter' },
    onMessage,
  );
}

function keyOf(family: string, table: string, chain: string): string {
  return `${family}\0${table}\0${chain}`;
}
