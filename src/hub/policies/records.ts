import type { API_VERSION } from '../../api/types.ts';
import type { PolicySource } from './policy-document.ts';

/** What the hub says of policies at its socket. */

export interface HubPolicyRecord {
  /** `CiliumNetworkPolicy/default/web` */
  readonly name: string;
  /** Below `mesh-agent/v1/policies/`. */
  readonly document: string;
  readonly kind: string;
  readonly namespace: string;
  readonly source: PolicySource;
  /** The same object was applied by hand as well, and that one is in force. */
  readonly shadowed: boolean;
  /** Of its last change in the store. */
  readonly revision: number;
  readonly bytes: number;
}

export interface HubPolicyDetail extends HubPolicyRecord {
  readonly apiVersion: typeof API_VERSION;
  /** The object in JSON, as it is handed out. */
  readonly text: string;
}

export interface MachinePolicyRecord {
  readonly workload: string;
  /** Null when the machine has not told. */
  readonly revision: string | null;
  readonly current: boolean;
}

/** `GET /v1/policies` */
export interface HubPolicyList {
  readonly apiVersion: typeof API_VERSION;
  readonly kind: 'HubPolicyList';
  /** Of the whole set, as machines report it. */
  readonly revision: string;
  readonly items: readonly HubPolicyRecord[];
  readonly machines: readonly MachinePolicyRecord[];
}

export type PolicyChange = 'created' | 'changed' | 'unchanged' | 'deleted';

export interface HubPolicyApplied {
  readonly apiVersion: typeof API_VERSION;
  readonly kind: 'HubPolicyApplied';
  readonly items: readonly (HubPolicyRecord & { readonly change: PolicyChange })[];
}
