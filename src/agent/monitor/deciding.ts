import type { FlowPolicyRecord } from '../../api/flow-types.ts';
import { DROP, type DropReason } from '../../core/drop-reason.ts';
import { identity as numeric } from '../../core/identity.ts';
import type { Address } from '../../core/ip.ts';
import { decidingRow } from '../../datapath/judge.ts';
import { VERDICT_KINDS, type VerdictKind } from '../../datapath/verdict-log.ts';
import { type PolicyRow, PROTOCOL, type Protocol, type RuleRef } from '../../policy/result.ts';
import type { Agent } from '../agent.ts';
import { always } from '../explain/always.ts';
import { RulePlaces } from '../explain/judgement.ts';
import { portsWord } from '../explain/question.ts';

/** A packet as the policy of one direction sees it. */
export interface DecidedFlow {
  readonly kind: VerdictKind;
  /** Of the policy that judges: for answers, not the way that the packet goes. */
  readonly direction: 'ingress' | 'egress';
  readonly peer: { readonly address: Address; readonly identity: number };
  readonly protocol: number;
  /** Of whoever was asked, or the type of ICMP. */
  readonly port: number;
  /** It came out of the overlay, which brings an identity of its own. */
  readonly overlay: boolean;
}

export interface Decided {
  readonly policy: FlowPolicyRecord;
  readonly reason: DropReason | undefined;
}

const MAX_RULES = 4;
/** Places of rules are looked up anew after so long, milliseconds: a document may move without a change of its rules. */
const FRESH_MS = 30_000;
/** Rules that ask for default deny may change without a change of any row. */
const MISS_MS = 1_000;
const DHCP: ReadonlySet<number> = new Set([67, 68, 546, 547]);

const FIXED: Readonly<Partial<Record<VerdictKind, FlowPolicyRecord>>> = {
  stranger: { reason: 'unknown-sender', rules: [], why: 'only known nodes may send packets of the overlay' },
  spoofed: { reason: 'spoofed-tunnel', rules: [], why: 'only the overlay may send packets of the overlay to nodes' },
  malformed: { reason: 'malformed', rules: [], why: 'the headers of the packet do not add up' },
  no_backend: { reason: 'no-backend', rules: [], why: 'no backend of the service is in use' },
};

/** Which rules decided what the kernel did: by the row that the packet met, so that a flood costs one lookup a packet. */
export class Deciding {
  readonly #agent: Agent;
  #rows = new WeakMap<PolicyRow, Decided>();
  #misses = new Map<string, Decided>();
  #freshUntil = 0;
  #missesUntil = 0;

  constructor(agent: Agent) {
    this.#agent = agent;
  }

  of(flow: DecidedFlow): Decided {
    const fixed = FIXED[flow.kind];
    if (fixed !== undefined) return { policy: fixed, reason: VERDICT_KINDS[flow.kind].reason };
    const { reason } = VERDICT_KINDS[flow.kind];
    // Until the facts are there the model knows of no policy, and the kernel has what it had.
    if (!this.#agent.reconciler.opened) return { reason, policy: { reason: 'earlier-run', rules: [] } };
    this.#age();
    const policy = this.#agent.model.resolved[flow.direction];
    const row = decidingRow(policy.classOf(numeric(flow.peer.identity)).rows, flow);
    const open = !(policy.enforcing && policy.defaultDeny);
    if (flow.kind === 'allowed') return this.#allowed(flow, row, open);
    const decided = row === undefined ? this.#miss(flow.direction) : this.#row(flow, row);
    // What the kernel did is a fact: it may have been done before the last change of the policies.
    const allows = row === undefined ? open : row.verdict === 'allow';
    const expected = flow.kind === 'deny_rule' ? row !== undefined && !allows : !allows;
    if (flow.kind === 'withdrawn') {
      const rules = allows ? [] : decided.policy.rules;
      return { reason, policy: { ...decided.policy, rules, reason: 'withdrawn' } };
    }
    return expected ? decided : { reason, policy: otherwise(flow) };
  }

  #age(): void {
    const now = performance.now();
    if (now > this.#freshUntil) {
      this.#rows = new WeakMap();
      this.#freshUntil = now + FRESH_MS;
    }
    if (now > this.#missesUntil) {
      this.#misses = new Map();
      this.#missesUntil = now + MISS_MS;
    }
  }

  #allowed(flow: DecidedFlow, row: PolicyRow | undefined, open: boolean): Decided {
    const { direction, peer, protocol, port } = flow;
    const { border, overlay } = this.#agent.desired;
    const asked = { protocol: protocol as Protocol, port };
    const rule = always({ direction, port: asked, address: peer.address, border, hasOverlay: overlay !== undefined });
    if (rule !== undefined) return { reason: undefined, policy: { reason: 'always', rules: [], why: rule.why } };
    if (row?.verdict === 'allow') return this.#row(flow, row);
    if (protocol === PROTOCOL.udp && DHCP.has(port))
      return { reason: undefined, policy: { reason: 'always', rules: [], why: 'DHCP from its own port' } };
    const policy = row === undefined && open ? { reason: 'not-enforced' as const, rules: [] } : otherwise(flow);
    return { reason: undefined, policy };
  }

  #miss(direction: 'ingress' | 'egress'): Decided {
    const known = this.#misses.get(direction);
    if (known !== undefined) return known;
    const rules = this.#agent.model.defaultDenyOf(direction);
    const made: Decided = { reason: DROP.noRule, policy: { reason: 'default-deny', ...this.#places(rules) } };
    this.#misses.set(direction, made);
    return made;
  }

  #row(flow: DecidedFlow, row: PolicyRow): Decided {
    const known = this.#rows.get(row);
    if (known !== undefined) return known;
    const { direction, peer, protocol, port } = flow;
    // Once for each row: it works from the entries, which may be many.
    const said = this.#agent.model.explain({ direction, identity: numeric(peer.identity), protocol, port });
    const made: Decided = {
      reason:
        row.verdict === 'allow'
          ? undefined
          : said.reason === 'needs-authentication'
            ? DROP.needsAuthentication
            : said.reason === 'default-deny'
              ? DROP.noRule
              : DROP.denyRule,
      policy: { reason: said.reason, ...this.#places(row.rules), ports: portsWord(row) },
    };
    this.#rows.set(row, made);
    return made;
  }

  #places(refs: readonly RuleRef[]): Pick<FlowPolicyRecord, 'rules' | 'more'> {
    const places = new RulePlaces(this.#agent);
    const more = refs.length - MAX_RULES;
    return { rules: refs.slice(0, MAX_RULES).map((ref) => places.rule(ref)), ...(more > 0 && { more }) };
  }
}

/** The policies say otherwise than the kernel did. */
function otherwise({ overlay }: DecidedFlow): FlowPolicyRecord {
  const why = 'or the overlay brought another identity than the address has';
  return { reason: 'changed-meanwhile', rules: [], ...(overlay && { why }) };
}
