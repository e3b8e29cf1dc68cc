import type { Prefix } from '../../core/ip.ts';
import type { LabelSet } from '../../core/labels.ts';
import type { Direction, RuleRef } from '../result.ts';
import type { Entry, FqdnItem, NamedPort, PortRange, Rule, Selector } from '../rule.ts';
import type { PolicySettings } from '../settings.ts';
import type { Contribution } from './contribution.ts';
import { matches, requirement } from './match.ts';
import { isNamed, type NamedPorts, toRange } from './named-ports.ts';
import { compilePeers, localized, type PeerContext, type PeerSet } from './peers.ts';

/** The rules that select the subject, sorted by the peers that they name. */
export interface ActiveDirection {
  readonly enforcing: boolean;
  readonly defaultDeny: boolean;
  /** Set when only audited policies ask for default deny. */
  readonly auditedMiss: readonly RuleRef[] | undefined;
  /** Rules and settings that ask for default deny. */
  readonly miss: readonly RuleRef[];
  /** What holds for every identity. */
  readonly everyone: readonly Contribution[];
  /** By key of the peer set. */
  readonly units: ReadonlyMap<string, Unit>;
}

/** Contributions to the same peers. */
export interface Unit {
  readonly peers: PeerSet;
  readonly contributions: Contribution[];
  /** Port names that are looked up per peer. */
  readonly named: NamedContribution[];
}

export interface NamedContribution {
  readonly ports: readonly NamedPort[];
  readonly contribution: Omit<Contribution, 'ranges'>;
}

export interface Subject {
  readonly labels: LabelSet;
  readonly namedPorts: NamedPorts;
}

export interface ActiveInput {
  readonly subject: Subject | undefined;
  /** Rules that select the subject. */
  readonly rules: readonly Rule[];
  readonly context: PeerContext;
  /** Peers of entries, kept between builds for as long as settings and groups stay the same. */
  readonly compiled: Map<Entry, PeerSet>;
}

const isHost = (labels: LabelSet): boolean => hasReserved(labels, 'host');

function hasReserved(labels: LabelSet, name: string): boolean {
  return labels.some(({ source, key }) => source === 'reserved' && key === name);
}

/** Specification 5.1.3, 11.11: endpoint rules are for endpoints, node rules for hosts. */
export function selects(rule: Rule, labels: LabelSet): boolean {
  return (rule.subject.kind === 'node') === isHost(labels) && matches(rule.subject.selector, labels);
}

const implicit = (what: string): RuleRef => ({ policy: `implicit/${what}`, path: '' });
const IMPLICIT = {
  ingress: implicit('allow-any-ingress'),
  egress: implicit('allow-any-egress'),
  localhost: implicit('allow-localhost-ingress'),
  always: implicit('enforcement-always'),
  init: implicit('enforcement-init'),
} as const;

const HOST: PeerSet = {
  key: 'Exists reserved:host',
  everyone: false,
  selectors: [[requirement('reserved', 'host', 'Exists')]],
  prefixes: new Map(),
  fqdns: [],
  missingGroups: [],
};

export function buildActive(direction: Direction, input: ActiveInput): ActiveDirection {
  const { subject, context } = input;
  const { settings } = context;
  if (subject === undefined || !isEnforced(subject, settings)) return notEnforced(direction);
  const sections = input.rules.map((rule) => ({ rule, section: rule[direction] }));
  const counting = sections.filter(({ section }) => section.allow.length + section.deny.length > 0);
  const asking = counting.filter(({ section }) => section.defaultDeny !== false);
  const forced = forcedBy(subject, settings);
  if (counting.length === 0 && forced === undefined) return notEnforced(direction);
  const defaultDeny = forced !== undefined || asking.length > 0;
  const miss = [...(forced === undefined ? [] : [forced]), ...asking.map(({ rule }) => rule.ref)];
  const auditedMiss = forced === undefined && defaultDeny && asking.every(({ rule }) => rule.audit) ? miss : undefined;
  const builder = new Builder(direction, input);
  for (const { rule, section } of counting) {
    for (const entry of section.allow) builder.add(entry, { deny: false, audit: rule.audit });
    for (const entry of section.deny) builder.add(entry, { deny: true, audit: rule.audit });
  }
  if (!defaultDeny) builder.everyone.push(allowAll(IMPLICIT[direction]));
  else if (direction === 'ingress' && settings.allowLocalhost === 'always' && !isHost(subject.labels)) {
    builder.unit(HOST).contributions.push({ ...allowAll(IMPLICIT.localhost), everyone: false });
  }
  return { enforcing: true, defaultDeny, auditedMiss, miss, everyone: builder.everyone, units: builder.units };
}

function isEnforced(subject: Subject, settings: PolicySettings): boolean {
  if (settings.enforcement === 'never') return false;
  return !isHost(subject.labels) || settings.hostFirewall === true;
}

/** Specification 11.9 and 11.10. */
function forcedBy(subject: Subject, settings: PolicySettings): RuleRef | undefined {
  if (settings.enforcement === 'always') return IMPLICIT.always;
  return hasReserved(subject.labels, 'init') ? IMPLICIT.init : undefined;
}

function notEnforced(direction: Direction): ActiveDirection {
  const everyone = [allowAll(IMPLICIT[direction])];
  return { enforcing: false, defaultDeny: false, auditedMiss: undefined, miss: [], everyone, units: new Map() };
}

function allowAll(ref: RuleRef): Contribution {
  return { ref, deny: false, audit: false, ranges: undefined, everyone: true, authentication: undefined };
}

class Builder {
  readonly everyone: Contribution[] = [];
  readonly units = new Map<string, Unit>();
  readonly #input: ActiveInput;
  readonly #direction: Direction;
  readonly #required: { readonly allow: Selector; readonly deny: Selector };

  constructor(direction: Direction, input: ActiveInput) {
    this.#input = input;
    this.#direction = direction;
    const required = (kind: 'allow' | 'deny'): Selector =>
      input.rules.flatMap((rule) =>
        rule[direction][kind].flatMap(({ requires }) =>
          requires.flatMap((each) => localized(each, input.context.settings)),
        ),
      );
    this.#required = { allow: required('allow'), deny: required('deny') };
  }

  add(entry: Entry, { deny, audit }: { readonly deny: boolean; readonly audit: boolean }): void {
    const peers = this.#peers(entry, deny);
    if (peers.key === '' || entry.ports?.length === 0) return;
    const { everyone } = peers;
    const { authentication } = entry;
    const contribution = { ref: entry.ref, deny, audit, everyone, authentication };
    const { ranges, named } = this.#ports(entry);
    const unit = everyone && named.length === 0 ? undefined : this.unit(peers);
    if (named.length > 0) unit?.named.push({ ports: named, contribution });
    if (ranges?.length === 0) return;
    if (everyone) this.everyone.push({ ...contribution, ranges });
    else unit?.contributions.push({ ...contribution, ranges });
  }

  unit(peers: PeerSet): Unit {
    const known = this.units.get(peers.key);
    if (known !== undefined) return known;
    const unit = { peers, contributions: [], named: [] };
    this.units.set(peers.key, unit);
    return unit;
  }

  #peers(entry: Entry, deny: boolean): PeerSet {
    const required = deny ? this.#required.deny : this.#required.allow;
    // Legacy requirements of one rule change the entries of all others.
    if (required.length > 0) return compilePeers(entry, this.#input.context, required);
    const known = this.#input.compiled.get(entry);
    if (known !== undefined) return known;
    const peers = compilePeers(entry, this.#input.context, []);
    this.#input.compiled.set(entry, peers);
    return peers;
  }

  /** Port names of ingress are ours; those of egress belong to each peer. */
  #ports(entry: Entry): { readonly ranges: readonly PortRange[] | undefined; readonly named: readonly NamedPort[] } {
    if (entry.ports === undefined) return { ranges: undefined, named: [] };
    const ranges: PortRange[] = [];
    const named: NamedPort[] = [];
    for (const match of entry.ports) {
      if (!isNamed(match)) ranges.push(match);
      else if (this.#direction === 'egress') named.push(match);
      else {
        const port = this.#input.subject?.namedPorts.resolve(match);
        if (port !== undefined) ranges.push(toRange(port, match.protocol));
      }
    }
    return { ranges, named };
  }
}

/** What local identities the peers of both directions need. */
export function neededFrom(directions: readonly ActiveDirection[]): {
  readonly prefixes: ReadonlyMap<string, Prefix>;
  readonly fqdns: ReadonlyMap<string, FqdnItem>;
} {
  const prefixes = new Map<string, Prefix>();
  const fqdns = new Map<string, FqdnItem>();
  for (const { units } of directions) {
    for (const { peers } of units.values()) {
      for (const [text, prefix] of peers.prefixes) prefixes.set(text, prefix);
      for (const item of peers.fqdns) fqdns.set(item.text, item);
    }
  }
  return { prefixes, fqdns };
}
