import { clustersPart, kvstoremeshPart } from './clusters/parts.ts';
import { enrolmentCarePart, enrolmentPart } from './enrolment/part.ts';
import { kubernetesPart } from './kubernetes/part.ts';
import type { PartFactory } from './part.ts';
import { policiesPart, policyKeeperPart } from './policies/parts.ts';
import { registrationPart } from './registration/part.ts';
import { workloadsPart } from './workloads/part.ts';

/** What a hub does, in the order of its start; it is stopped the other way round. */
export const HUB_PARTS: readonly PartFactory[] = [
  workloadsPart,
  enrolmentPart(),
  enrolmentCarePart(),
  policiesPart,
  clustersPart,
  // Before anything that tells machines that the store is complete.
  policyKeeperPart,
  registrationPart,
  kubernetesPart(),
  kvstoremeshPart,
];
