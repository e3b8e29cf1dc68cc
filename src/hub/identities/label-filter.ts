import type { LabelSet } from '../../core/labels.ts';

/**
 * Which labels make an identity: the default filter of Cilium 1.16-1.19 (kvstore specification 2.4.4). Machines that
 * differ in nothing else share one identity, as pods of one deployment do. Patterns match from the start of the key.
 */
export function identityLabels(labels: LabelSet): LabelSet {
  return labels.filter(({ source, key }) => source === 'reserved' || KEPT.test(key) || !DROPPED.test(key));
}

/** These win over what is dropped. */
const KEPT = new RegExp(
  `^(${[
    'io\\.kubernetes\\.pod\\.namespace',
    'io\\.cilium\\.k8s\\.namespace\\.labels',
    'io\\.cilium\\.k8s\\.policy\\.cluster',
    'io\\.cilium\\.k8s\\.policy\\.serviceaccount',
    'app\\.kubernetes\\.io',
  ].join('|')})`,
);

const DROPPED = new RegExp(
  `^(${[
    'io\\.kubernetes',
    'kubernetes\\.io',
    '.*beta\\.kubernetes\\.io',
    'k8s\\.io',
    'statefulset\\.kubernetes\\.io/pod-name',
    'apps\\.kubernetes\\.io/pod-index',
    'batch\\.kubernetes\\.io/job-completion-index',
    'batch\\.kubernetes\\.io/controller-uid',
    'pod-template-generation',
    'pod-template-hash',
    'controller-revision-hash',
    'controller-uid',
    'annotation.*',
    'etcd_node',
  ].join('|')})`,
);
