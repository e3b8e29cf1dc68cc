import type { Prefix } from '../core/ip.ts';
import type { Protocol, RuleRef } from './result.ts';

/**
 * Rules as the language reads them: checked, in normal form, with what the policy's kind and namespace add to its
 * selectors (specification 5), but without anything that depends on settings, groups or names.
 */
export type Operator = 'In' | 'NotIn' | 'Exists' | 'DoesNotExist';

/** One requirement on labels. Source `any` stands for every source. */
export interface Requirement {
  readonly source: string;
  readonly key: string;
  readonly operator: Operator;
  /** Sorted, without doubles; empty for Exists and DoesNotExist. */
  readonly values: readonly string[];
}

/** ANDed; empty for the wildcard. */
export type Selector = readonly Requirement[];

/** Selects peers. Namespace requirements are already in it. */
export interface PeerSelector {
  readonly requirements: Selector;
  /** Means the own cluster when selectors are local by default (specification 5.3). */
  readonly localByDefault: boolean;
}

/** One item of a CIDR list. `within` is a prefix, the name of a CIDR group, or a selector over the labels of groups. */
export interface CidrItem {
  readonly within: Prefix | { readonly group: string } | { readonly groups: Selector };
  readonly except: readonly Prefix[];
}

/** Names: exactly one of the two, lower case, without a final dot. `text` is as the user wrote it. */
export interface FqdnItem {
  readonly name?: string;
  readonly pattern?: string;
  readonly text: string;
}

/** Whom an entry names. Lists are ORed; an empty list names nobody. */
export type Peers =
  | { readonly kind: 'everyone' }
  | { readonly kind: 'nobody' }
  | { readonly kind: 'endpoints'; readonly selectors: readonly PeerSelector[] }
  | { readonly kind: 'nodes'; readonly selectors: readonly PeerSelector[] }
  | { readonly kind: 'entities'; readonly entities: readonly string[] }
  | { readonly kind: 'cidrs'; readonly items: readonly CidrItem[] }
  | { readonly kind: 'fqdns'; readonly items: readonly FqdnItem[] };

/** Ports or ICMP types of one protocol; `first` 0 and `last` 65535 for all of them. */
export interface PortRange {
  readonly protocol: Protocol;
  readonly first: number;
  readonly last: number;
}

export interface NamedPort {
  readonly protocol: Protocol;
  /** Lower case. */
  readonly name: string;
}

export type PortMatch = PortRange | NamedPort;

export type Authentication = 'required' | 'disabled' | 'test-always-fail';

export interface Entry {
  readonly ref: RuleRef;
  readonly peers: Peers;
  /** Legacy `fromRequires` and `toRequires`. */
  readonly requires: readonly PeerSelector[];
  /** Undefined for every protocol and port; empty for none. */
  readonly ports: readonly PortMatch[] | undefined;
  readonly authentication?: Authentication;
  /** What the host cannot enforce, in words. The entry is already narrowed accordingly. */
  readonly heldBack: readonly string[];
}

export interface RuleSection {
  readonly allow: readonly Entry[];
  readonly deny: readonly Entry[];
  /** `enableDefaultDeny` as written. */
  readonly defaultDeny: boolean | undefined;
}

export interface Rule {
  readonly ref: RuleRef;
  /** `node` rules are for hosts only. */
  readonly subject: { readonly kind: 'endpoint' | 'node'; readonly selector: Selector };
  readonly ingress: RuleSection;
  readonly egress: RuleSection;
  /** Denials that only audited policies ask for are reported, not applied. */
  readonly audit: boolean;
  /** The rule for people, as `cilium-dbg policy get` prints it. */
  readonly display: Readonly<Record<string, unknown>>;
}
