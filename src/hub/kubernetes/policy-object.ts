import { createHash } from 'node:crypto';
import { separatePolicies } from '../../policy/language/separate.ts';
import { KUBERNETES_DOCUMENTS, type PolicyName, readName } from '../policies/policy-document.ts';
import type { KubeResource } from './api-client.ts';
import { fieldsOf } from './object.ts';

/** A policy of Kubernetes as it is handed out, or why it is not. */
export type KubePolicy = {
  /** `CiliumNetworkPolicy/default/web` */
  readonly shown: string;
  /** Undefined when it can have no name in the store: then no version of it was ever there. */
  readonly name: PolicyName | undefined;
} & Content;

type Content = { readonly text: string; readonly hash: string; readonly bytes: number } | { readonly problem: string };

const MAX_BYTES = 1 << 20;
const AUDIT_ANNOTATION = 'mesh-agent.io/audit';

/** Without what changes while the policy stays the same: status, managed fields, versions. Never throws. */
export function policyOf(object: object, { kind, apiVersion, namespaced }: KubeResource): KubePolicy {
  const fields = fieldsOf(object) ?? {};
  const metadata = fieldsOf(fields.metadata) ?? {};
  const { name, namespace = '', uid, labels } = metadata;
  const shown = [kind, ...(namespace === '' ? [] : [namespace]), name].join('/').slice(0, 400);
  // A policy of a namespace without one would select machines of all of them.
  if (namespaced !== (namespace !== '')) {
    return { shown, name: undefined, problem: namespaced ? 'it has no namespace' : 'it has a namespace' };
  }
  const document = readName(`${KUBERNETES_DOCUMENTS}${kind.toLowerCase()}.${namespace}.${name}`);
  if (document === undefined || document.namespace !== namespace)
    return { shown, name: undefined, problem: 'its name is no DNS name' };
  const audit = fieldsOf(metadata.annotations)?.[AUDIT_ANNOTATION];
  const annotations = audit === undefined ? undefined : { [AUDIT_ANNOTATION]: audit };
  const { spec, specs } = fields;
  const place = namespaced ? { name, namespace } : { name };
  const own = { apiVersion, kind, metadata: { ...place, uid, labels, annotations }, spec, specs };
  return { shown, name: document, ...readText(JSON.stringify(own), document.name) };
}

function readText(json: string, policy: string): Content {
  const { objects, error } = separatePolicies(json);
  const [only] = objects;
  if (only === undefined || objects.length > 1) return { problem: error?.message ?? 'it is not one object' };
  if (only.object.type === 'bad') {
    const { path, message } = only.object.error;
    return { problem: path === '' ? message : `${path}: ${message}` };
  }
  if (only.object.policy !== policy) return { problem: 'it cannot be told apart from another object' };
  const { text } = only;
  const bytes = Buffer.byteLength(text);
  if (bytes > MAX_BYTES) return { problem: `it has ${bytes} bytes, ${MAX_BYTES} at most` };
  return { text, bytes, hash: hashOf(Buffer.from(text)) };
}

/** Tells contents of documents apart. */
export function hashOf(text: Buffer): string {
  return createHash('sha256').update(text).digest('base64');
}
