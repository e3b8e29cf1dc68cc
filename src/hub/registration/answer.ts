import { encodeRegisterNode } from '../../kvstore/codec/register-node.ts';
import { registrationLabels, type Workload } from '../workloads/workload.ts';

export interface AnswerOptions {
  readonly workload: Workload;
  readonly cluster: { readonly name: string; readonly id: number };
  readonly identity: number;
}

/**
 * The answer to a registration (kvstore specification 2.2, 6.2 step 4): everything in it comes from the object, nothing from the
 * machine. It has no addresses, by which a machine tells it from what it wrote itself.
 */
export function registrationAnswer({ workload, cluster, identity }: AnswerOptions): string {
  return encodeRegisterNode({
    name: workload.name,
    cluster: cluster.name,
    clusterId: cluster.id,
    addresses: [],
    ranges4: workload.range4 === undefined ? [] : [workload.range4],
    ranges6: workload.range6 === undefined ? [] : [workload.range6],
    healthAddresses: [],
    ingressAddresses: [],
    source: 'kvstore',
    labels: registrationLabels(workload, cluster.name),
    annotations: null,
    nodeIdentity: identity,
    bootId: '',
  });
}
