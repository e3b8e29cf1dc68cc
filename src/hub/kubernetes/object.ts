import { MeshError } from '../../core/errors.ts';
import type { KubeResource } from './api-client.ts';

export interface KubeHead {
  /** `<namespace>/<name>`; the namespace is empty for objects that have none. */
  readonly key: string;
  readonly resourceVersion: string;
  readonly object: object;
}

/**
 * Which object it is. A list or a watch with an object that cannot be told apart from others is not to be trusted at all.
 * A bookmark has a version alone.
 * @throws MeshError HUB-KUBE-ANSWER
 */
export function headOf(object: unknown, { plural, kind }: KubeResource, bookmark = false): KubeHead {
  const metadata = fieldsOf(fieldsOf(object)?.metadata);
  const resourceVersion = metadata?.resourceVersion;
  const name = metadata?.name;
  const namespace = metadata?.namespace ?? '';
  if (typeof resourceVersion !== 'string' || resourceVersion === '')
    throw new MeshError('HUB-KUBE-ANSWER', `one of ${plural} has no resourceVersion`);
  const named = typeof name === 'string' && name !== '' && typeof namespace === 'string';
  if (!named && !bookmark) throw new MeshError('HUB-KUBE-ANSWER', `one of ${plural} has no name`);
  const found = fieldsOf(object)?.kind;
  if (found !== undefined && found !== kind) throw new MeshError('HUB-KUBE-ANSWER', `one of ${plural} is no ${kind}`);
  return { key: named ? `${namespace}/${name}` : '', resourceVersion, object: object as object };
}

/** Undefined for what is no object of JSON. */
export function fieldsOf(value: unknown): Readonly<Record<string, unknown>> | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Readonly<Record<string, unknown>>)
    : undefined;
}
