import { createHash } from 'node:crypto';
import { formatPrefix, type Prefix } from '../../core/ip.ts';
import { CLUSTER_LABEL } from '../../core/labels.ts';
import { entitySelectors } from '../entities.ts';
import type { CidrItem, Entry, FqdnItem, PeerSelector, Selector } from '../rule.ts';
import type { PolicySettings } from '../settings.ts';
import type { CidrGroups } from './cidr-groups.ts';
import { cidrKey, prefixOfKey, requirement, selectorText } from './match.ts';

/** Whom an entry selects under the present settings and groups: a union of selectors. */
export interface PeerSet {
  /** Equal for equal unions. */
  readonly key: string;
  /** Every identity, unknown ones included; `selectors` is not looked at then. */
  readonly everyone: boolean;
  readonly selectors: readonly Selector[];
  /** What needs a local identity so that the selectors can match. */
  readonly prefixes: ReadonlyMap<string, Prefix>;
  readonly fqdns: readonly FqdnItem[];
  /** CIDR groups that are named but not known. */
  readonly missingGroups: readonly string[];
}

export interface PeerContext {
  readonly settings: PolicySettings;
  readonly groups: CidrGroups;
}

const none = { everyone: false, prefixes: new Map<string, Prefix>(), fqdns: [], missingGroups: [] } as const;
const EVERYONE: PeerSet = { ...none, key: '*', everyone: true, selectors: [] };
const NOBODY: PeerSet = { ...none, key: '', selectors: [] };

/** `required`: what legacy requirements of all entries add to endpoint selectors. */
export function compilePeers(entry: Entry, context: PeerContext, required: Selector): PeerSet {
  const { peers } = entry;
  switch (peers.kind) {
    case 'everyone':
      return EVERYONE;
    case 'nobody':
      return NOBODY;
    case 'endpoints':
      return union(peers.selectors.map((each) => [...localized(each, context.settings), ...required]));
    case 'nodes':
      return union(peers.selectors.map((each) => localized(each, context.settings)));
    case 'entities':
      return union(peers.entities.flatMap((name) => entitySelectors(name, context.settings.clusterName)));
    case 'fqdns':
      return {
        ...union(peers.items.map(({ text }) => [requirement('fqdn', text, 'Exists')])),
        fqdns: peers.items,
      };
    case 'cidrs':
      return compileCidrs(peers.items, context);
  }
}

/** Specification 5.3. */
export function localized(selector: PeerSelector, settings: PolicySettings): Selector {
  if (!selector.localByDefault || !settings.defaultLocalCluster) return selector.requirements;
  return [...selector.requirements, requirement('k8s', CLUSTER_LABEL, 'In', [settings.clusterName])];
}

/** Longer keys are replaced by a digest: a group of ten thousand prefixes would make a key of its own size. */
const MAX_KEY = 512;

function union(selectors: readonly Selector[]): PeerSet {
  if (selectors.length === 0) return NOBODY;
  if (selectors.some((each) => each.length === 0)) return EVERYONE;
  const byText = new Map(selectors.map((each) => [selectorText(each), each]));
  const texts = [...byText.keys()].sort();
  const key = texts.join(' || ');
  return {
    ...none,
    key: key.length <= MAX_KEY ? key : `sha256 ${createHash('sha256').update(key).digest('base64')}`,
    selectors: texts.map((text) => byText.get(text) as Selector),
    prefixes: cidrsOf(selectors),
  };
}

/** Raw rules may name prefixes in labels. */
function cidrsOf(selectors: readonly Selector[]): ReadonlyMap<string, Prefix> {
  const prefixes = new Map<string, Prefix>();
  for (const selector of selectors) {
    for (const { source, key } of selector) {
      if (source !== 'cidr') continue;
      const prefix = prefixOfKey(key);
      if (prefix !== undefined) prefixes.set(formatPrefix(prefix), prefix);
    }
  }
  return prefixes;
}

function compileCidrs(items: readonly CidrItem[], context: PeerContext): PeerSet {
  const selectors: Selector[] = [];
  const missingGroups: string[] = [];
  const world = new Set<number>();
  for (const item of items) {
    const within = prefixesOf(item, context.groups);
    if (within === undefined) missingGroups.push((item.within as { group: string }).group);
    for (const prefix of within ?? []) {
      selectors.push(cidrSelector(prefix, item.except, context.settings.dualStack));
      if (prefix.bits === 0 && item.except.length === 0) world.add(prefix.family);
    }
  }
  if (world.size === 2) selectors.push([requirement('reserved', 'world', 'Exists')]);
  return { ...union(selectors), missingGroups };
}

function prefixesOf(item: CidrItem, groups: CidrGroups): readonly Prefix[] | undefined {
  const { within } = item;
  if ('group' in within) return groups.get(within.group)?.prefixes;
  if ('groups' in within) return groups.matching(within.groups);
  return [within];
}

/** A prefix of length 0 is the world itself (specification 6.3.4). */
function cidrSelector(prefix: Prefix, except: readonly Prefix[], dualStack: boolean): Selector {
  const label = (each: Prefix): string => cidrKey(formatPrefix(each), each.family);
  const world = dualStack ? (prefix.family === 4 ? 'world-ipv4' : 'world-ipv6') : 'world';
  const within =
    prefix.bits === 0 ? requirement('reserved', world, 'Exists') : requirement('cidr', label(prefix), 'Exists');
  const without = except.map((each) =>
    each.bits === 0 ? requirement('reserved', world, 'DoesNotExist') : requirement('cidr', label(each), 'DoesNotExist'),
  );
  return [within, ...without];
}
