import { CLUSTER_LABEL, NAMESPACE_LABEL } from '../../core/labels.ts';
import { requirement } from '../resolve/match.ts';
import type { PeerSelector, Selector } from '../rule.ts';
import type { Cursor } from './cursor.ts';
import { names, readSelector, withoutNamespaceLabel } from './selectors.ts';

/** What a policy's kind and namespace add to its selectors (specification 5). */
export type Scope =
  | { readonly kind: 'namespace'; readonly namespace: string }
  | { readonly kind: 'clusterwide' }
  | { readonly kind: 'raw' };

export const NAMESPACE_LABELS_PREFIX = 'io.cilium.k8s.namespace.labels.';
const EITHER = ['k8s', 'any'] as const;

export const inNamespace = (namespace: string): Selector => [requirement('k8s', NAMESPACE_LABEL, 'In', [namespace])];
export const anyNamespace: Selector = [requirement('k8s', NAMESPACE_LABEL, 'Exists')];

/** Specification 5.1. */
export function readSubject(at: Cursor, scope: Scope): Selector {
  if (at.isNull) at.fail('rule must have one of EndpointSelector or NodeSelector: write {} to select every endpoint');
  const written = readSelector(at);
  if (scope.kind !== 'namespace') return written;
  const { rest, dropped } = withoutNamespaceLabel(written);
  for (const namespace of dropped) {
    if (namespace === scope.namespace) continue;
    at.context.warn(at, `the policy applies to its own namespace ${scope.namespace}, not to ${namespace}`);
  }
  return [...rest, ...inNamespace(scope.namespace)];
}

export interface PeerScope {
  readonly scope: Scope;
  /** The subject selector of the rule. */
  readonly subject: Selector;
}

/** Specification 5.2; `requires` is for the legacy fields, which never stop at a reserved key. */
export function scopedPeer(selector: Selector, { scope, subject }: PeerScope, requires = false): PeerSelector {
  if (scope.kind === 'raw') return { requirements: selector, localByDefault: false };
  if (!requires && selector.some(({ source }) => source === 'reserved')) {
    return { requirements: selector, localByDefault: false };
  }
  return {
    requirements: [...selector, ...namespaceAdded(selector, scope, subject)],
    localByDefault: isLocalByDefault(selector),
  };
}

function namespaceAdded(selector: Selector, scope: Scope, subject: Selector): Selector {
  if (names(selector, EITHER, NAMESPACE_LABEL)) return [];
  if (scope.kind === 'clusterwide') return names(subject, ['reserved'], 'init') ? [] : anyNamespace;
  if (scope.kind !== 'namespace') return [];
  const byLabel = selector.some(
    ({ source, key }) => (source === 'k8s' || source === 'any') && key.startsWith(NAMESPACE_LABELS_PREFIX),
  );
  return byLabel ? [] : inNamespace(scope.namespace);
}

export function isLocalByDefault(selector: Selector): boolean {
  return !names(selector, EITHER, CLUSTER_LABEL);
}
