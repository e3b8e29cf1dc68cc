import type { NumericIdentity } from '../core/identity.ts';
import type { Address, Prefix } from '../core/ip.ts';
import type { LabelSet } from '../core/labels.ts';
import type { Direction, PolicyChanges, Protocol, ResolvedPolicy, RuleRef, Verdict } from './result.ts';
import type { Rule } from './rule.ts';
import type { PolicySettings } from './settings.ts';

/** A port name that an endpoint offers. */
export interface NamedPortValue {
  readonly name: string;
  readonly protocol: 6 | 17 | 132;
  readonly port: number;
}

export interface CidrGroup {
  readonly labels: LabelSet;
  readonly prefixes: readonly Prefix[];
}

/** What one policy does at present. */
export interface PolicyEffect {
  /** Some of its rules select this machine. */
  readonly selecting: boolean;
  /** Directions that its selecting rules enforce. */
  readonly directions: readonly Direction[];
  /** What is held back, or points to something unknown; with path and line. */
  readonly messages: readonly string[];
}

/** One flow, worked out from the rules themselves rather than from the rows. */
export interface Explanation {
  readonly verdict: Verdict;
  /** The denial is reported, not applied. */
  readonly audit: boolean;
  readonly reason:
    | 'not-enforced'
    | 'denied-by-rule'
    | 'allowed-by-rule'
    | 'no-default-deny'
    | 'default-deny'
    | 'needs-authentication';
  /** The rules that decide; those that ask for default deny when nothing matched. */
  readonly rules: readonly RuleRef[];
}

/**
 * The policy of one machine, pure: facts go in, in any order and as often as one likes; `resolved` follows from the
 * facts that are present. Setters only note what changed; the work is done when the outcome is looked at.
 */
export class PolicyModel {
  constructor(settings: PolicySettings) {
    void settings;
  }

  configure(_settings: PolicySettings): void {}

  /** Labels of this machine and the port names that it offers; undefined while it is not registered: nothing is enforced. */
  setSubject(_labels: LabelSet | undefined, _namedPorts: readonly NamedPortValue[] = []): void {}

  /** Replaces labels; reserved identities are known from the start and may be given other labels. */
  setIdentity(_id: NumericIdentity, _labels: LabelSet): void {}

  /** A reserved identity gets its usual labels back. */
  removeIdentity(_id: NumericIdentity): void {}

  /** Port names that endpoints with this identity offer, for egress. Survives `removeIdentity`; an empty list removes. */
  setNamedPorts(_id: NumericIdentity, _ports: readonly NamedPortValue[]): void {}

  /** Replaces all rules of one resource in one step; undefined removes them. */
  setPolicies(_key: string, _rules: readonly Rule[] | undefined): void {}

  setCidrGroup(_name: string, _group: CidrGroup | undefined): void {}

  /** The addresses that a DNS name has at present, for `toFQDNs`; an empty list removes. */
  setNames(_name: string, _addresses: readonly Address[]): void {}

  /** Looks at the present facts; cheap when nothing changed. */
  get resolved(): ResolvedPolicy {
    throw new Error('in progress');
  }

  /** What changed since the last drain. */
  drainChanges(): PolicyChanges {
    throw new Error('in progress');
  }

  /** Labels of an identity, of the model's own prefixes too. */
  labelsOf(_id: NumericIdentity): LabelSet | undefined {
    return undefined;
  }

  effectOf(_key: string): PolicyEffect {
    throw new Error('in progress');
  }

  explain(_flow: {
    direction: Direction;
    identity: NumericIdentity;
    protocol: Protocol | number;
    port: number;
  }): Explanation {
    throw new Error('in progress');
  }
}
