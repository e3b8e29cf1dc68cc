import { NAMESPACE_LABEL } from '../../core/labels.ts';
import type { WorkloadRequest } from '../workloads/workloads.ts';
import { fieldsOf } from './object.ts';

/** A CiliumExternalWorkload as a workload, or why it cannot be one. What its labels and ranges are worth is checked behind it. */
export type KubeWorkload = { readonly name: string } & (
  | { readonly request: WorkloadRequest }
  | { readonly problem: string }
);

const SERVICE_ACCOUNT_LABEL = 'io.cilium.k8s.policy.serviceaccount';
/** Of the hub, whatever the object says: as Cilium 1.16 does it (specification of the kvstore, 6.2). */
const OVERRIDDEN = new Set([
  NAMESPACE_LABEL,
  SERVICE_ACCOUNT_LABEL,
  'io.cilium.k8s.policy.cluster',
  'io.kubernetes.pod.name',
  'io.kubernetes.pod.uid',
]);
const DEFAULT_NAMESPACE = 'default';
const MAX_LABELS = 1000;

/** Specification of the kvstore, 6.1. Never throws. */
export function workloadOf(object: object): KubeWorkload {
  const fields = fieldsOf(object) ?? {};
  const metadata = fieldsOf(fields.metadata) ?? {};
  const name = String(metadata.name);
  const found = fieldsOf(metadata.labels ?? {});
  const spec = fieldsOf(fields.spec ?? {});
  if (found === undefined || spec === undefined) return { name, problem: 'its labels or its spec are no map' };
  const entries = Object.entries(found);
  const labels = entries.filter((entry): entry is [string, string] => typeof entry[1] === 'string');
  if (labels.length < entries.length || entries.length > MAX_LABELS)
    return { name, problem: `labels must be texts, ${MAX_LABELS} at most` };
  const ranges = [spec['ipv4-alloc-cidr'] ?? '', spec['ipv6-alloc-cidr'] ?? ''];
  const [ipv4, ipv6] = ranges;
  if (typeof ipv4 !== 'string' || typeof ipv6 !== 'string') return { name, problem: 'an alloc-cidr is no text' };
  const given = new Map(labels);
  return {
    name,
    request: {
      name,
      namespace: given.get(NAMESPACE_LABEL) ?? DEFAULT_NAMESPACE,
      labels: Object.fromEntries(labels.filter(([key]) => !OVERRIDDEN.has(key))),
      serviceAccount: given.get(SERVICE_ACCOUNT_LABEL) || undefined,
      ipv4AllocCidr: ipv4 || undefined,
      ipv6AllocCidr: ipv6 || undefined,
      source: 'kubernetes',
    },
  };
}
