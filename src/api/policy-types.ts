/** Records of the policy tools: `policy explain`, `policy apply`, `fqdn list`. */
import type { PolicyFinding } from '../policy/language/findings.ts';
import type { AllowanceRecord, API_VERSION, IdentityRecord, KernelPolicyRecord, PolicyRecord } from './types.ts';

/** A text with policies, named as its reader knows it: a file. */
export interface PolicyText {
  readonly name: string;
  readonly text: string;
}

export interface ExplainRequest {
  /** Address, prefix, number of an identity, selector, `self` or the machine's name. */
  readonly source: string;
  readonly destination: string;
  /** `tcp/80`, `icmp/8`; every port when it is left out. */
  readonly port?: string;
  /** Policies that are added for the question, or replace those of the same name. Nothing is changed. */
  readonly with?: readonly PolicyText[];
}

export type ExplainAnswer = ExplanationRecord | CandidatesRecord | PolicyFindings;

/** A selector fits several identities: no answer, but who is meant. */
export interface CandidatesRecord {
  readonly apiVersion: typeof API_VERSION;
  readonly kind: 'PolicyCandidates';
  readonly asked: string;
  /** How many there are; `items` may be fewer. */
  readonly count: number;
  readonly items: readonly IdentityRecord[];
}

export interface ExplanationRecord extends JudgementRecord {
  readonly apiVersion: typeof API_VERSION;
  readonly kind: 'PolicyExplanation';
  readonly direction: 'ingress' | 'egress';
  /** `tcp`; absent for a question about every port. */
  readonly protocol?: string;
  /** Destination port, or ICMP type. */
  readonly port?: number;
  readonly source: PartyRecord;
  readonly destination: PartyRecord;
  /** What holds whatever the policies say. */
  readonly always?: AlwaysRecord;
  readonly kernel: KernelOpinionRecord;
  /** For a denial: what would have to change. */
  readonly advice?: AdviceRecord;
  /** What the policies of the request would change. */
  readonly trial?: TrialRecord;
}

export interface JudgementRecord {
  /** What becomes of the first packet of a connection. `partly`: some ports pass. */
  readonly verdict: 'allow' | 'deny' | 'partly';
  /** The policies deny it, which is reported and not applied. */
  readonly audit: boolean;
  readonly reason:
    | 'always'
    | 'inside'
    | 'not-enforced'
    | 'denied-by-rule'
    | 'allowed-by-rule'
    | 'no-default-deny'
    | 'default-deny'
    | 'needs-authentication'
    | 'by-port';
  /** The rules that decide; those that ask for default deny when none matches. */
  readonly rules: readonly RuleRecord[];
  /** Without a port in the question: what is decided for which ports. */
  readonly ports?: readonly PortsRecord[];
}

export interface PortsRecord {
  readonly ports: string;
  readonly verdict: 'allow' | 'deny';
  readonly audit: boolean;
  readonly rules: readonly RuleRecord[];
}

/** A rule by its place. */
export interface RuleRecord {
  /** As `policy list` names it; `implicit/...` for what is no policy. */
  readonly policy: string;
  /** In the object: `spec.ingress[0]`. */
  readonly path: string;
  /** In the document, from 1. */
  readonly line?: number;
  /** `directory:web.yaml` */
  readonly source?: string;
  /** File or key, with the line. */
  readonly place?: string;
}

/** One end of a flow, and how we know. */
export interface PartyRecord {
  readonly asked: string;
  /** It is this machine. */
  readonly self: boolean;
  readonly name?: string;
  readonly address?: string;
  /** The entry of the ipcache that holds the address. */
  readonly prefix?: string;
  readonly identity: number;
  readonly labels: readonly string[];
  /** `local`, `kvstore`, `clustermesh`, `node`, `policy`, `reserved`. */
  readonly source: string;
  readonly cluster?: string;
  /** DNS names that the address was learnt by. */
  readonly names?: readonly string[];
  /** Whether the source is in touch; if not, since when not. */
  readonly fresh: boolean;
  readonly since?: number;
  /** Something to be heeded. */
  readonly note?: string;
}

export interface AlwaysRecord extends AllowanceRecord {
  readonly verdict: 'allow' | 'deny';
}

/** What the kernel itself would do. */
export interface KernelOpinionRecord {
  /** `unapplied`: changes are on their way. `unread`: it could not be asked. `none`: nothing is enforced. */
  readonly state: 'agrees' | 'differs' | 'unapplied' | 'unread' | 'none';
  readonly text: string;
  /** The rows that decide, with their counters; none when nothing matches. */
  readonly rows: readonly KernelPolicyRecord[];
}

export interface AdviceRecord {
  /** Sentences. */
  readonly texts: readonly string[];
  /** Who asks for default deny. */
  readonly defaultDeny: readonly RuleRecord[];
  readonly samePeer: readonly NearRuleRecord[];
  readonly samePort: readonly NearRuleRecord[];
  /** A policy that would allow the flow: tried, and found to do so. */
  readonly policy?: string;
}

export interface NearRuleRecord extends RuleRecord {
  readonly ports: string;
  readonly peers: readonly string[];
}

export interface TrialRecord {
  /** Policies that the texts hold, as `policy list` would name them. */
  readonly policies: readonly { readonly name: string; readonly change: 'added' | 'replaced' | 'unchanged' }[];
  readonly before: JudgementRecord;
  readonly after: JudgementRecord;
}

/** What `policy validate` says; of texts that the agent refused, only why. */
export interface PolicyFindings {
  readonly apiVersion: typeof API_VERSION;
  readonly kind: 'PolicyValidation';
  readonly ok: boolean;
  readonly items: readonly PolicyFinding[];
}

/** All of its objects are taken, or none. */
export interface ApplyRequest {
  readonly texts: readonly PolicyText[];
}

export type ApplyAnswer = AppliedRecord | PolicyFindings;

export interface AppliedRecord {
  readonly apiVersion: typeof API_VERSION;
  readonly kind: 'PolicyApplied';
  readonly items: readonly AppliedPolicyRecord[];
}

export interface AppliedPolicyRecord extends PolicyRecord {
  readonly change: 'created' | 'changed' | 'unchanged' | 'deleted';
}

/** A DNS name that the machine has resolved. */
export interface NameRecord {
  readonly name: string;
  readonly addresses: readonly {
    readonly address: string;
    /** The answer's lifetime is over then; later only for the sake of a connection. */
    readonly expires: number;
    /** Kept beyond its lifetime, since a connection to it lives. */
    readonly live: boolean;
  }[];
  /** The selectors of policies in force that match. */
  readonly selectors: readonly string[];
}
