import type { PolicyObject } from '../../policy/language/parse.ts';

/** Who a document is from: an administrator, or a Kubernetes cluster that the hub follows. */
export type PolicySource = 'hand' | 'kubernetes';

/**
 * Before the names of documents from Kubernetes. It sorts behind those of every kind, and of two documents with the same object
 * machines take the first: what was applied by hand wins, without a moment with neither of the two.
 */
export const KUBERNETES_DOCUMENTS = 'of-kubernetes.';

/** An object's place in the store, and its words for people. */
export interface PolicyName {
  /** `ciliumnetworkpolicy.default.web`: kind, namespace (empty for none), name; behind `of-kubernetes.` when it is from there. */
  readonly document: string;
  readonly source: PolicySource;
  /** `CiliumNetworkPolicy/default/web` */
  readonly name: string;
  readonly kind: string;
  readonly namespace: string;
}

const DNS_NAME = /^(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;
const DNS_LABEL = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/;
const KINDS = ['CiliumNetworkPolicy', 'CiliumClusterwideNetworkPolicy', 'NetworkPolicy', 'CiliumCIDRGroup'];

/** The name of an object that was read, or why it can have none here. */
export function nameOf({ policy, kind }: PolicyObject): PolicyName | string {
  if (kind === 'Rules') return 'rules alone have no name: put them into a CiliumClusterwideNetworkPolicy';
  if (policy === undefined || !KINDS.includes(kind)) return 'it has no name';
  const [, ...parts] = policy.split('/');
  const name = parts.at(-1) ?? '';
  const namespace = parts.length > 1 ? (parts[0] ?? '') : '';
  if (parts.length > 2 || !DNS_NAME.test(name)) return `${JSON.stringify(name.slice(0, 80))} is no DNS name`;
  if (namespace !== '' && !DNS_LABEL.test(namespace))
    return `namespace ${JSON.stringify(namespace.slice(0, 80))} is no DNS label`;
  return { document: `${kind.toLowerCase()}.${namespace}.${name}`, source: 'hand', name: policy, kind, namespace };
}

/** The other way round; undefined for a document that nobody here has written. */
export function readName(document: string): PolicyName | undefined {
  const source = document.startsWith(KUBERNETES_DOCUMENTS) ? 'kubernetes' : 'hand';
  const own = source === 'kubernetes' ? document.slice(KUBERNETES_DOCUMENTS.length) : document;
  const [word = '', namespace = '', ...rest] = own.split('.');
  const kind = KINDS.find((each) => each.toLowerCase() === word);
  const name = rest.join('.');
  if (kind === undefined || !DNS_NAME.test(name) || (namespace !== '' && !DNS_LABEL.test(namespace))) return undefined;
  return { document, source, name: [kind, ...(namespace === '' ? [] : [namespace]), name].join('/'), kind, namespace };
}
