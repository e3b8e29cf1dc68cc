import { formatPrefix, type Prefix, parsePrefix } from '../../core/ip.ts';
import { CLUSTER_LABEL, type LabelSet, labelSet, makeLabel, NAMESPACE_LABEL } from '../../core/labels.ts';
import { BadValue, fieldsOf, quoted } from '../../kvstore/codec/json.ts';
import { checkDnsLabel, checkDnsName, checkLabels, checkWorkloadName, type LabelMap } from './labels.ts';

/** What the administrator wants one machine to be. */
export interface Workload {
  /** Unlike that of any other workload, also of one that had the same name. */
  readonly uid: string;
  /** DNS-1123 name, unique over namespaces: a registration key has the name alone. */
  readonly name: string;
  readonly namespace: string;
  readonly labels: LabelMap;
  readonly serviceAccount: string | undefined;
  readonly range4: Prefix | undefined;
  readonly range6: Prefix | undefined;
  /** Milliseconds since the epoch. */
  readonly created: number;
  /** The last change of what the administrator wants. */
  readonly changed: number;
  /** Since when it may not register, nor be published. */
  readonly revoked: number | undefined;
  /** Who keeps it: an administrator, or the Kubernetes cluster that the hub follows. */
  readonly source: WorkloadSource;
}

export type WorkloadSource = 'hand' | 'kubernetes';

export const WORKLOADS_PREFIX = 'mesh-agent/v1/workloads/';
/** `<name>` to its namespace: what keeps a name unique. */
export const NAMES_PREFIX = 'mesh-agent/v1/names/';
const POD_NAME_LABEL = 'io.kubernetes.pod.name';
const SERVICE_ACCOUNT_LABEL = 'io.cilium.k8s.policy.serviceaccount';

export function workloadKey({ namespace, name }: Pick<Workload, 'namespace' | 'name'>): string {
  return `${WORKLOADS_PREFIX}${namespace}/${name}`;
}

export function rangesOf({ range4, range6 }: Workload): Prefix[] {
  return [range4, range6].filter((range) => range !== undefined);
}

/** All labels of the machine, as the external-workload manager of Cilium 1.16 builds them (specification 6.2, step 4). */
export function registrationLabels(workload: Workload, cluster: string): ReadonlyMap<string, string> {
  return new Map([
    ...Object.entries(workload.labels),
    [NAMESPACE_LABEL, workload.namespace],
    [POD_NAME_LABEL, workload.name],
    ...(workload.serviceAccount === undefined ? [] : [[SERVICE_ACCOUNT_LABEL, workload.serviceAccount] as const]),
    [CLUSTER_LABEL, cluster],
  ]);
}

/** The same as security labels, before the filter of identities. */
export function securityLabels(workload: Workload, cluster: string): LabelSet {
  return labelSet([...registrationLabels(workload, cluster)].map(([key, value]) => makeLabel('k8s', key, value)));
}

const VERSION = 1;
const FIELDS = new Set([
  'version',
  'uid',
  'name',
  'namespace',
  'labels',
  'serviceAccount',
  'ipv4AllocCidr',
  'ipv6AllocCidr',
  'created',
  'changed',
  'revoked',
  'source',
]);

export function encodeWorkload(workload: Workload): string {
  return JSON.stringify({
    version: VERSION,
    uid: workload.uid,
    name: workload.name,
    namespace: workload.namespace,
    labels: workload.labels,
    ...(workload.serviceAccount !== undefined && { serviceAccount: workload.serviceAccount }),
    ...(workload.range4 !== undefined && { ipv4AllocCidr: formatPrefix(workload.range4) }),
    ...(workload.range6 !== undefined && { ipv6AllocCidr: formatPrefix(workload.range6) }),
    created: new Date(workload.created).toISOString(),
    changed: new Date(workload.changed).toISOString(),
    ...(workload.revoked !== undefined && { revoked: new Date(workload.revoked).toISOString() }),
    ...(workload.source !== 'hand' && { source: workload.source }),
  });
}

/**
 * Strict: an object of a newer version, with an unknown field or with a value that is not acceptable is no workload for
 * us, since half of what an administrator wants may be the wrong half. `key` is `<namespace>/<name>`.
 * @throws BadValue, MeshError HUB-WORKLOAD
 */
export function decodeWorkload(key: string, value: Buffer): Workload {
  const fields = strictFields(value);
  const text = (name: string): string => {
    const found = fields[name];
    if (typeof found !== 'string') throw new BadValue(`${name} is no string`);
    return found;
  };
  const optional = (name: string): string | undefined => (fields[name] === undefined ? undefined : text(name));
  if (fields.version !== VERSION) throw new BadValue(`version ${quoted(fields.version)} is not ${VERSION}`);
  const unknown = Object.keys(fields).find((name) => !FIELDS.has(name));
  if (unknown !== undefined) throw new BadValue(`unknown field ${quoted(unknown)}`);
  const name = checkWorkloadName(text('name'));
  const namespace = checkDnsLabel(text('namespace'), 'namespace');
  if (key !== `${namespace}/${name}`) throw new BadValue(`${quoted(`${namespace}/${name}`)} is not the key`);
  const serviceAccount = optional('serviceAccount');
  return {
    uid: uidOf(text('uid')),
    name,
    namespace,
    labels: checkLabels(stringsOf(fields.labels)),
    serviceAccount: serviceAccount === undefined ? undefined : checkDnsName(serviceAccount, 'service account'),
    range4: rangeOf(optional('ipv4AllocCidr'), 4),
    range6: rangeOf(optional('ipv6AllocCidr'), 6),
    created: timeOf(text('created')),
    changed: timeOf(text('changed')),
    revoked: fields.revoked === undefined ? undefined : timeOf(text('revoked')),
    source: sourceOf(optional('source')),
  };
}

function strictFields(value: Buffer): Record<string, unknown> {
  let content: unknown;
  try {
    content = JSON.parse(value.toString('utf8'));
  } catch (error) {
    throw new BadValue(`not JSON: ${(error as Error).message.slice(0, 120)}`);
  }
  fieldsOf(content, 'value');
  return content as Record<string, unknown>;
}

function stringsOf(value: unknown): LabelMap {
  fieldsOf(value, 'labels');
  for (const [key, item] of Object.entries(value as object))
    if (typeof item !== 'string') throw new BadValue(`labels.${key.slice(0, 100)} is no string`);
  return value as LabelMap;
}

function uidOf(text: string): string {
  if (!/^[0-9a-f-]{36}$/.test(text)) throw new BadValue(`uid ${quoted(text)} is none`);
  return text;
}

function sourceOf(text: string | undefined): WorkloadSource {
  if (text !== undefined && text !== 'kubernetes') throw new BadValue(`source ${quoted(text)} is not known`);
  return text ?? 'hand';
}

function timeOf(text: string): number {
  const time = Date.parse(text);
  if (Number.isNaN(time)) throw new BadValue(`${quoted(text)} is no time`);
  return time;
}

function rangeOf(text: string | undefined, family: 4 | 6): Prefix | undefined {
  if (text === undefined) return undefined;
  const prefix = parsePrefix(text);
  if (prefix === undefined || prefix.family !== family || formatPrefix(prefix) !== text)
    throw new BadValue(`${quoted(text)} is no canonical IPv${family} prefix`);
  return prefix;
}
