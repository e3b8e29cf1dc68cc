import { LOCAL_SCOPE, type NumericIdentity, REMOTE_NODE_SCOPE } from '../core/identity.ts';
import type { Address, Prefix } from '../core/ip.ts';
import type { LabelSet } from '../core/labels.ts';
import { describeEffect, type PolicyEffect } from './effect.ts';
import { type Explanation, explainFlow, type Flow } from './explain.ts';
import { type NearestRules, nearestRules } from './nearest.ts';
import { type ActiveDirection, buildActive, neededFrom, type Subject, selects } from './resolve/active.ts';
import { type CidrGroup, CidrGroups } from './resolve/cidr-groups.ts';
import { Direction } from './resolve/direction.ts';
import { IdentityTable } from './resolve/identities.ts';
import { NamedPorts, type NamedPortValue } from './resolve/named-ports.ts';
import { NameTable } from './resolve/names.ts';
import type { PeerSet } from './resolve/peers.ts';
import { PrefixTable } from './resolve/prefixes.ts';
import type { PolicyChanges, ResolvedPolicy, RuleRef } from './result.ts';
import type { Entry, Rule } from './rule.ts';
import type { PolicySettings } from './settings.ts';

export type { PolicyEffect } from './effect.ts';
export type { Explanation, Flow } from './explain.ts';
export type { NearestRules, NearRule } from './nearest.ts';
export type { CidrGroup } from './resolve/cidr-groups.ts';
export type { NamedPortValue } from './resolve/named-ports.ts';
export type { PolicySettings } from './settings.ts';

/**
 * The policy of one machine, pure: facts go in, in any order and as often as one likes; `resolved` follows from the
 * facts that are present. Setters only note what changed; the work is done when the outcome is looked at, and costs what
 * the change touches. Numbers of classes and of prefixes depend on history, nothing else does.
 */
export class PolicyModel {
  #settings: PolicySettings;
  #subject: Subject | undefined;
  #revision = 1;
  readonly #identities = new IdentityTable();
  readonly #policies = new Map<string, readonly Rule[]>();
  readonly #groups = new CidrGroups();
  readonly #names = new NameTable();
  readonly #prefixes = new PrefixTable();
  /** Prefixes that the rules in force name. */
  #named: ReadonlyMap<string, Prefix> = new Map();
  /** Identities of the local scope that were given from outside: our own prefixes make way for them. */
  readonly #foreign = new Map<NumericIdentity, LabelSet>();
  readonly #touchedLocal = new Set<NumericIdentity>();
  readonly #compiled = new Map<Entry, PeerSet>();
  readonly #ingress: Direction;
  readonly #egress: Direction;
  #rulesChanged = true;
  #peersChanged = false;
  #prefixesChanged = false;
  #resolved: ResolvedPolicy | undefined;
  #changedPrefixes = new Set<string>();

  constructor(settings: PolicySettings) {
    this.#settings = settings;
    this.#identities.dualStack = settings.dualStack;
    this.#ingress = new Direction(this.#active('ingress', []), this.#identities);
    this.#egress = new Direction(this.#active('egress', []), this.#identities);
    for (const [id] of this.#identities.all()) this.#identities.changed.add(id);
  }

  configure(settings: PolicySettings): void {
    if (sameSettings(this.#settings, settings)) return;
    this.#settings = settings;
    this.#identities.setDualStack(settings.dualStack);
    this.#peersChanged = true;
    this.#prefixesChanged = true;
    this.#touchRules();
  }

  /** Labels of this machine and the port names that it offers; undefined while it is not registered: nothing is enforced. */
  setSubject(labels: LabelSet | undefined, namedPorts: readonly NamedPortValue[] = []): void {
    const subject = labels === undefined ? undefined : { labels, namedPorts: new NamedPorts(namedPorts) };
    if (sameSubject(this.#subject, subject)) return;
    this.#subject = subject;
    this.#touchRules();
  }

  /** Replaces labels; reserved identities are known from the start and may be given other labels. */
  setIdentity(id: NumericIdentity, labels: LabelSet): void {
    if (isLocal(id)) {
      this.#foreign.set(id, labels);
      this.#touchLocal(id);
    } else this.#identities.set(id, labels);
  }

  /** A reserved identity gets its usual labels back. */
  removeIdentity(id: NumericIdentity): void {
    if (!isLocal(id)) this.#identities.set(id, undefined);
    else if (this.#foreign.delete(id)) this.#touchLocal(id);
  }

  /** Port names that endpoints with this identity offer, for egress. Survives `removeIdentity`; an empty list removes. */
  setNamedPorts(id: NumericIdentity, ports: readonly NamedPortValue[]): void {
    this.#identities.setNamedPorts(id, ports);
  }

  /** Replaces all rules of one resource in one step; undefined removes them. */
  setPolicies(key: string, rules: readonly Rule[] | undefined): void {
    const before = this.#policies.get(key);
    if (before === rules) return;
    for (const entry of entriesOf(before ?? [])) this.#compiled.delete(entry);
    if (rules === undefined) this.#policies.delete(key);
    else this.#policies.set(key, rules);
    this.#revision++;
    this.#touchRules();
  }

  /** Changes take effect on all policies that name the group. */
  setCidrGroup(name: string, group: CidrGroup | undefined): void {
    if (this.#groups.get(name) === group) return;
    this.#groups.set(name, group);
    this.#peersChanged = true;
    this.#revision++;
    this.#touchRules();
  }

  /** The addresses that a DNS name has at present, for `toFQDNs`; an empty list removes. */
  setNames(name: string, addresses: readonly Address[]): void {
    if (this.#names.set(name, addresses)) this.#prefixesChanged = true;
  }

  /** Looks at the present facts; cheap when nothing changed. Its directions are views of the present state. */
  get resolved(): ResolvedPolicy {
    this.#settle();
    this.#resolved ??= {
      revision: this.#revision,
      ingress: this.#ingress.view(),
      egress: this.#egress.view(),
      prefixes: this.#prefixes.byText,
    };
    return this.#resolved;
  }

  /** What changed since the last drain; at first, everything that is not empty. */
  drainChanges(): PolicyChanges {
    this.#settle();
    const prefixes = this.#changedPrefixes;
    this.#changedPrefixes = new Set();
    return { ingress: this.#ingress.drain(), egress: this.#egress.drain(), prefixes };
  }

  /** Labels of an identity, of the model's own prefixes too. */
  labelsOf(id: NumericIdentity): LabelSet | undefined {
    this.#settle();
    return this.#identities.labelsOf(id);
  }

  /** A rule that selects this machine names peers by DNS names. */
  get wantsNames(): boolean {
    this.#settle();
    return this.#names.used;
  }

  /** The FQDN selectors in use that match a DNS name; none while it has no address. */
  fqdnSelectorsOf(name: string): readonly string[] {
    this.#settle();
    return this.#names.selectorsOf(name);
  }

  /** What one policy does at present; for an unknown key, nothing. */
  effectOf(key: string): PolicyEffect {
    return describeEffect(this.#policies.get(key) ?? [], {
      subject: this.#subject,
      groups: this.#groups,
      settings: this.#settings,
    });
  }

  /** One flow, worked out from the entries rather than from the rows. */
  explain(flow: Flow): Explanation {
    this.#settle();
    const direction = flow.direction === 'ingress' ? this.#ingress : this.#egress;
    return explainFlow(flow, direction.active, direction.contributionsFor(flow.identity));
  }

  /** The rules that come nearest to allowing a flow. */
  nearest(flow: Flow): NearestRules {
    this.#settle();
    const direction = flow.direction === 'ingress' ? this.#ingress : this.#egress;
    return nearestRules(flow, direction.active, direction.contributionsFor(flow.identity));
  }

  /** The rules and settings that ask for default deny in a direction; empty when there is none. */
  defaultDenyOf(direction: Flow['direction']): readonly RuleRef[] {
    this.#settle();
    return (direction === 'ingress' ? this.#ingress : this.#egress).active.miss;
  }

  #touchLocal(id: NumericIdentity): void {
    this.#touchedLocal.add(id);
    this.#prefixesChanged = true;
  }

  #touchRules(): void {
    this.#rulesChanged = true;
  }

  #active(direction: 'ingress' | 'egress', rules: readonly Rule[]): ActiveDirection {
    const context = { settings: this.#settings, groups: this.#groups };
    return buildActive(direction, { subject: this.#subject, rules, context, compiled: this.#compiled });
  }

  #settle(): void {
    const changed = this.#identities.changed;
    if (!this.#rulesChanged && !this.#prefixesChanged && changed.size === 0) return;
    let ingress = this.#ingress.active;
    let egress = this.#egress.active;
    if (this.#rulesChanged) {
      if (this.#peersChanged) this.#compiled.clear();
      const rules = this.#selectingRules();
      ingress = this.#active('ingress', rules);
      egress = this.#active('egress', rules);
    }
    if (this.#rulesChanged) this.#settlePrefixes([ingress, egress]);
    else if (this.#prefixesChanged) this.#settlePrefixes(undefined);
    this.#ingress.become(ingress, changed);
    this.#egress.become(egress, changed);
    changed.clear();
    this.#rulesChanged = false;
    this.#peersChanged = false;
    this.#prefixesChanged = false;
    this.#resolved = undefined;
  }

  #selectingRules(): Rule[] {
    const labels = this.#subject?.labels;
    if (labels === undefined) return [];
    // In one order whatever the order of the calls, so that the outcome is the same to the last reference.
    return [...this.#policies.keys()]
      .sort()
      .flatMap((key) => (this.#policies.get(key) ?? []).filter((rule) => selects(rule, labels)));
  }

  /** `active` when rules changed. */
  #settlePrefixes(active: readonly ActiveDirection[] | undefined): void {
    if (active !== undefined) {
      const { prefixes, fqdns } = neededFrom(active);
      this.#named = prefixes;
      this.#names.use(fqdns);
    }
    const changes = this.#prefixes.become({
      prefixes: this.#named,
      names: this.#names,
      dualStack: this.#settings.dualStack,
      foreign: (id) => this.#foreign.has(id),
      touched: this.#touchedLocal,
    });
    for (const text of changes.texts) this.#changedPrefixes.add(text);
    for (const [id, labels] of changes.identities) this.#identities.set(id, labels);
    for (const id of this.#touchedLocal) {
      this.#identities.set(id, this.#foreign.get(id) ?? this.#prefixes.labelsOf(id));
    }
    this.#touchedLocal.clear();
  }
}

function sameSettings(a: PolicySettings, b: PolicySettings): boolean {
  return (
    a.clusterName === b.clusterName &&
    a.dualStack === b.dualStack &&
    a.enforcement === b.enforcement &&
    a.allowLocalhost === b.allowLocalhost &&
    a.defaultLocalCluster === b.defaultLocalCluster &&
    (a.hostFirewall === true) === (b.hostFirewall === true)
  );
}

function isLocal(id: NumericIdentity): boolean {
  return id >= LOCAL_SCOPE && id < REMOTE_NODE_SCOPE;
}

function entriesOf(rules: readonly Rule[]): Entry[] {
  return rules.flatMap(({ ingress, egress }) => [ingress, egress].flatMap(({ allow, deny }) => [...allow, ...deny]));
}

function sameSubject(a: Subject | undefined, b: Subject | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  const text = ({ labels }: Subject): string => labels.map((label) => label.text).join(';');
  return text(a) === text(b) && a.namedPorts.equals(b.namedPorts);
}
