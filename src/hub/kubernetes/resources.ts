import type { KubeResource } from './api-client.ts';

export const POLICY_RESOURCES: readonly KubeResource[] = [
  { kind: 'CiliumNetworkPolicy', apiVersion: 'cilium.io/v2', plural: 'ciliumnetworkpolicies', namespaced: true },
  {
    kind: 'CiliumClusterwideNetworkPolicy',
    apiVersion: 'cilium.io/v2',
    plural: 'ciliumclusterwidenetworkpolicies',
    namespaced: false,
  },
  { kind: 'NetworkPolicy', apiVersion: 'networking.k8s.io/v1', plural: 'networkpolicies', namespaced: true },
];

/** Until Cilium 1.17 (specification of the kvstore, 6.1). */
export const WORKLOAD_RESOURCE: KubeResource = {
  kind: 'CiliumExternalWorkload',
  apiVersion: 'cilium.io/v2',
  plural: 'ciliumexternalworkloads',
  namespaced: false,
};
