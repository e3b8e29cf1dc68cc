import type { Prefix } from '../core/ip.ts';
import type { Protocol, RuleRef } from './result.ts';

/**
 * Rules as the language reads them: checked, in normal form, without anything that depends on settings. What a policy's
 * kind and namespace add to its selectors is added when the model compiles a rule (`scope.ts`).
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

export type RuleScope =
  | { readonly kind: 'namespace'; readonly namespace: string }
  | { readonly kind: 'clusterwide' }
  | { readonly kind: 'kubernetes'; readonly namespace: string }
  | { readonly kind: 'raw' };

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
  | { readonly kind: 'endpoints'; readonly selectors: readonly Selector[] }
  | { readonly kind: 'nodes'; readonly selectors: readonly Selector[] }
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
  readonly requires: readonly Selector[];
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
  readonly scope: RuleScope;
  /** `node` rules are for hosts only. */
  readonly subject: { readonly kind: 'endpoint' | 'node'; readonly selector: Selector };
  readonly ingress: RuleSection;
  readonly egress: RuleSection;
  /** Denials that only audited policies ask for are reported, not applied. */
  readonly audit: boolean;
}
