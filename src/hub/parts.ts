import { clustersPart, kvstoremeshPartWith } from './clusters/parts.ts';
import { connectionsPart } from './connections/part.ts';
import { type EnrolmentOptions, enrolmentCarePart, enrolmentPart } from './enrolment/part.ts';
import { kubernetesPart } from './kubernetes/part.ts';
import type { MeshTiming } from './mesh/kvstoremesh.ts';
import type { PartFactory } from './part.ts';
import { policiesPart, policyKeeperPart } from './policies/parts.ts';
import { registrationPart } from './registration/part.ts';
import { servicesPart } from './services/part.ts';
import { workloadsPart } from './workloads/part.ts';

export interface PartOptions {
  readonly enrolment?: EnrolmentOptions;
  readonly clusters?: Partial<MeshTiming>;
}

/** What a hub does, in the order of its start; it is stopped the other way round. */
export function hubParts({ enrolment = {}, clusters = {} }: PartOptions = {}): readonly PartFactory[] {
  return [
    workloadsPart,
    connectionsPart,
    servicesPart,
    enrolmentPart(enrolment),
    enrolmentCarePart(enrolment),
    policiesPart,
    clustersPart,
    // Before anything that tells machines that the store is complete.
    policyKeeperPart,
    registrationPart,
    kubernetesPart(),
    kvstoremeshPartWith(clusters),
  ];
}

export const HUB_PARTS = hubParts();
