import { identity, type NumericIdentity } from '../../core/identity.ts';
import { CLUSTER_LABEL, decodeLabels, findLabel, type LabelSet } from '../../core/labels.ts';
import { BadValue, quoted } from './json.ts';

export interface IdentityEntry {
  readonly id: NumericIdentity;
  readonly labels: LabelSet;
}

/**
 * An identity of `identities/v1/id/<decimal>` (specification 2.4). The number must lie in the cluster's block, and the labels
 * must name the cluster: otherwise one cluster could speak for another.
 *
 * @throws BadValue
 */
export function decodeIdentity(
  key: string,
  value: Buffer,
  expected: { readonly cluster: string; readonly block: readonly [number, number] },
): IdentityEntry {
  if (!/^[1-9][0-9]{0,9}$/.test(key)) throw new BadValue(`key ${quoted(key)} is no decimal number`);
  const id = Number(key);
  const [first, last] = expected.block;
  if (id < first || id > last) throw new BadValue(`number is outside of the cluster's block ${first}-${last}`);
  if (value.length > 65_536) throw new BadValue(`labels of ${value.length} bytes are too long`);
  const labels = decodeLabels(value.toString('utf8'));
  const cluster = findLabel(labels, CLUSTER_LABEL);
  if (cluster?.source !== 'k8s' || cluster.value !== expected.cluster)
    throw new BadValue(`label k8s:${CLUSTER_LABEL}=${expected.cluster} is missing`);
  return { id: identity(id), labels };
}
