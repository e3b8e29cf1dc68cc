import { MeshError } from '../../core/errors.ts';
import { isDnsLabel, isDnsName, isLabelKey, isLabelValue } from '../../core/kubernetes-names.ts';

const MAX_LABELS = 64;

/** Keys that say who a workload is: the hub alone gives them, from the other fields of the object. */
const RESERVED_KEYS: ReadonlyMap<string, string> = new Map([
  ['io.cilium.k8s.policy.cluster', 'it names the cluster of the hub'],
  ['io.cilium.k8s.policy.serviceaccount', 'use the service account of the workload'],
  ['io.kubernetes.pod.namespace', 'use the namespace of the workload'],
  ['io.kubernetes.pod.name', 'it is the name of the workload'],
  ['io.kubernetes.pod.uid', 'it is the uid of the workload'],
]);

export type LabelMap = Readonly<Record<string, string>>;

/** DNS-1123, as names of Kubernetes namespaces are. @throws MeshError HUB-WORKLOAD */
export function checkDnsLabel(value: string, what: string): string {
  if (!isDnsLabel(value))
    throw wrong(`${what} ${JSON.stringify(value.slice(0, 100))} is no DNS label: a-z, 0-9 and -, at most 63 of them`);
  return value;
}

/** The common name of a certificate has 64 characters, of which `machine:` takes eight. */
const MAX_NAME = 56;

/** The name of a workload: that of its machine, and of its certificate. @throws MeshError HUB-WORKLOAD */
export function checkWorkloadName(value: string): string {
  checkDnsName(value, 'name');
  if (value.length > MAX_NAME) throw wrong(`name ${JSON.stringify(value)} is too long: ${MAX_NAME} characters at most`);
  return value;
}

/** A name of labels joined by dots, as nodes and service accounts have. @throws MeshError HUB-WORKLOAD */
export function checkDnsName(value: string, what: string): string {
  if (!isDnsName(value))
    throw wrong(`${what} ${JSON.stringify(value.slice(0, 100))} is no DNS name in lower case, at most 253 characters`);
  return value;
}

/** Labels as Kubernetes takes them, without those that the hub gives itself; sorted. @throws MeshError HUB-WORKLOAD */
export function checkLabels(labels: LabelMap): LabelMap {
  const entries = Object.entries(labels);
  if (entries.length > MAX_LABELS) throw wrong(`${entries.length} labels: ${MAX_LABELS} is the most`);
  for (const [key, value] of entries) {
    checkLabelKey(key);
    if (!isLabelValue(value))
      throw wrong(`value ${shown(value)} of label ${key} is not valid: letters, digits, -, _ and ., at most 63`);
  }
  return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** @throws MeshError HUB-WORKLOAD */
export function checkLabelKey(key: string): void {
  if (!isLabelKey(key))
    throw wrong(`label key ${shown(key)} is not valid: a name of at most 63 characters, or prefix/name`);
  const reserved = RESERVED_KEYS.get(key);
  if (reserved !== undefined) throw wrong(`label ${key} is reserved: ${reserved}`);
}

function shown(text: string): string {
  return JSON.stringify(text.length > 100 ? `${text.slice(0, 100)}…` : text);
}

function wrong(detail: string): MeshError {
  return new MeshError('HUB-WORKLOAD', detail);
}
