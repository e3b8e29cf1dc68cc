import { createHash } from 'node:crypto';
import { Attributes } from '../../host/attributes.ts';
import type { NetlinkMessage, NetlinkSocket } from '../../host/netlink.ts';
import { INET, NETDEV, NFT, SUBSYSTEM } from './elements.ts';
import { TABLE } from './names.ts';
import { ARRIVAL_CHAIN, STAMP_PREFIX } from './ruleset.ts';

const ATTRIBUTE = {
  table: 1,
  tableFlags: 2,
  chain: 3,
  chainHook: 4,
  hookDevice: 3,
  chainPolicy: 5,
  ruleChain: 2,
  expressions: 4,
};

/** Names of the chains in our table; empty without a table. */
export async function chains(socket: NetlinkSocket): Promise<string[]> {
  const names: string[] = [];
  await ours(socket, { type: NFT.getChain, operation: 'read chains' }, (attributes) => {
    const name = attributes.string(ATTRIBUTE.chain);
    if (name !== undefined) names.push(name);
  });
  return names;
}

/** The device that the arrival chain is on; undefined when the chain or its one rule is not there. */
export async function arrivalDevice(socket: NetlinkSocket): Promise<string | undefined> {
  let device: string | undefined;
  let rules = 0;
  await ours(socket, { type: NFT.getChain, operation: 'read chains', family: NETDEV }, (attributes) => {
    if (attributes.string(ATTRIBUTE.chain) === ARRIVAL_CHAIN)
      device = attributes.nested(ATTRIBUTE.chainHook)?.string(ATTRIBUTE.hookDevice);
  });
  if (device === undefined) return undefined;
  await ours(socket, { type: NFT.getRule, operation: 'read rules', family: NETDEV }, () => {
    rules++;
  });
  return rules === 1 ? device : undefined;
}

/**
 * What the kernel makes of our rules, as one short text: table flags, chains with hook and policy, rules. Two equal texts
 * mean equal rules; a change by anyone gives another one.
 */
export async function rulesDigest(socket: NetlinkSocket): Promise<string> {
  const hash = createHash('sha256');
  const add = (...parts: (string | Uint8Array | undefined)[]): void => {
    for (const part of parts) {
      hash.update(`${part?.length ?? -1} `);
      if (part !== undefined) hash.update(part);
    }
  };
  await ours(socket, { type: NFT.getTable, operation: 'read table' }, (attributes) => {
    add('table', attributes.data(ATTRIBUTE.tableFlags));
  });
  const described: string[] = [];
  await ours(socket, { type: NFT.getChain, operation: 'read chains' }, (attributes) => {
    const name = attributes.string(ATTRIBUTE.chain) ?? '';
    if (name.startsWith(STAMP_PREFIX)) return;
    const facts = [ATTRIBUTE.chainHook, ATTRIBUTE.chainPolicy].map((type) => attributes.data(type)?.toString('hex'));
    described.push(`${name} ${facts.join(' ')}`);
  });
  // Chains are listed by age, which says nothing; the order of the rules in one chain matters and is kept.
  add(...described.sort());
  const rules = new Map<string, Buffer[]>();
  await ours(socket, { type: NFT.getRule, operation: 'read rules' }, (attributes) => {
    const chain = attributes.string(ATTRIBUTE.ruleChain) ?? '';
    const expressions = attributes.data(ATTRIBUTE.expressions);
    if (expressions === undefined) return;
    const list = rules.get(chain);
    if (list === undefined) rules.set(chain, [Buffer.from(expressions)]);
    else list.push(Buffer.from(expressions));
  });
  for (const [chain, list] of [...rules].sort(([a], [b]) => (a < b ? -1 : 1))) add(chain, ...list);
  return hash.digest('hex').slice(0, 16);
}

/** Visits the objects of one kind that belong to our table. */
async function ours(
  socket: NetlinkSocket,
  what: { type: number; operation: string; family?: number },
  visit: (attributes: Attributes) => void,
): Promise<void> {
  const family = what.family ?? INET;
  const body = Uint8Array.of(family, 0, 0, 0);
  const onMessage = (message: NetlinkMessage): void => {
    const attributes = new Attributes(message.body, 4);
    if (message.body[0] === family && attributes.string(ATTRIBUTE.table) === TABLE) visit(attributes);
  };
  await socket.dump({ type: SUBSYSTEM | what.type, body, operation: what.operation }, onMessage);
}

/** Raised by one with every transaction of anybody in this network namespace. */
export async function generation(socket: NetlinkSocket): Promise<number> {
  const [body] = await socket.request({
    type: SUBSYSTEM | NFT.getGen,
    body: Uint8Array.of(0, 0, 0, 0),
    operation: 'read generation',
  });
  return (body === undefined ? undefined : new Attributes(body, 4).u32be(1)) ?? 0;
}

const COUNTER = 1;

/** The named counters of our table. */
export async function readCounters(socket: NetlinkSocket): Promise<Map<string, { packets: number; bytes: number }>> {
  const found = new Map<string, { packets: number; bytes: number }>();
  await ours(socket, { type: NFT.getObject, operation: 'read counters' }, (attributes) => {
    const name = attributes.string(2);
    const data = attributes.nested(4);
    if (name === undefined || data === undefined || attributes.u32be(3) !== COUNTER) return;
    found.set(name, { bytes: Number(data.u64be(1) ?? 0n), packets: Number(data.u64be(2) ?? 0n) });
  });
  return found;
}
