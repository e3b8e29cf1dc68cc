import { parsePrefix } from '../../core/ip.ts';
import { labelSet, makeLabel } from '../../core/labels.ts';
import type { Rule } from '../rule.ts';
import { Cursor, type Fields, type ReadContext, shown } from './cursor.ts';
import type { Node } from './document.ts';
import { readKubernetesRule } from './kubernetes.ts';
import { LanguageError } from './language-error.ts';
import type { ParseOptions, PolicyObject, PolicyProblem } from './parse.ts';
import { RULE_FIELDS, readRule } from './rule.ts';
import { originLabels } from './rule-labels.ts';

/** The objects of one document (specification 2): one object, a list of objects, one raw rule, or a list of rules. */
export const AUDIT_ANNOTATION = 'mesh-agent.io/audit';

const CILIUM = 'CiliumNetworkPolicy';
const CLUSTERWIDE = 'CiliumClusterwideNetworkPolicy';
const KUBERNETES = 'NetworkPolicy';
const CIDR_GROUP = 'CiliumCIDRGroup';
const API_VERSIONS: ReadonlyMap<string, readonly string[]> = new Map([
  [CILIUM, ['cilium.io/v2']],
  [CLUSTERWIDE, ['cilium.io/v2']],
  [KUBERNETES, ['networking.k8s.io/v1']],
  [CIDR_GROUP, ['cilium.io/v2alpha1', 'cilium.io/v2']],
]);

export function* readObjects(root: Node, document: number, options: ParseOptions): Generator<PolicyObject> {
  for (const { node, path } of objectNodes(root)) yield readOne(node, path, { document, options });
}

/** The parts of a document that are objects, each with its path. */
export function* objectNodes(root: Node): Generator<{ readonly node: Node; readonly path: string }> {
  if (root.kind === 'scalar' && root.value === null) return;
  if (root.kind === 'list') {
    const rules = root.items;
    // A list holds raw rules, or objects.
    if (rules.length > 0 && rules.every((item) => textAt(item, 'kind') !== undefined)) {
      for (const [index, node] of rules.entries()) yield { node, path: `[${index}]` };
    } else yield { node: root, path: '' };
    return;
  }
  const items = root.kind === 'map' ? root.entries.get('items') : undefined;
  if (textAt(root, 'kind')?.endsWith('List') && items?.kind === 'list') {
    for (const [index, node] of items.items.entries()) yield { node, path: `items[${index}]` };
    return;
  }
  yield { node: root, path: '' };
}

function nodeAt(node: Node, path: readonly string[]): Node | undefined {
  let at: Node | undefined = node;
  for (const name of path) at = at?.kind === 'map' ? at.entries.get(name) : undefined;
  return at?.kind === 'scalar' && at.value === null ? undefined : at;
}

function textAt(node: Node, ...path: string[]): string | undefined {
  const at = nodeAt(node, path);
  return at?.kind === 'scalar' && typeof at.value === 'string' ? at.value : undefined;
}

interface Place {
  readonly document: number;
  readonly options: ParseOptions;
}

function readOne(node: Node, path: string, { document, options }: Place): PolicyObject {
  const warnings: PolicyProblem[] = [];
  const kind = textAt(node, 'kind') ?? 'Rules';
  const policy = policyName(node, kind, options.name ?? 'text', document);
  const head = { kind, document, line: node.line, warnings };
  const context: ReadContext = {
    lenient: options.lenient === true,
    nodeSelectors: options.nodeSelectors === true,
    rejectL7: options.l7 === 'reject',
    policy: policy ?? kind,
    warn: (at, message) => {
      warnings.push({ document, path: at.path, line: at.line, message });
    },
  };
  try {
    const object = readObject(new Cursor(node, path, context), kind);
    if (policy === undefined) throw new LanguageError(path, node.line, `${kind.slice(0, 80)} must have name`);
    return { ...head, policy, ...object };
  } catch (error) {
    if (!(error instanceof LanguageError)) throw error;
    const problem = { document, path: error.path, line: error.line, message: error.message };
    return { ...head, policy, type: 'bad', error: problem };
  }
}

/** The name in the form of `RuleRef.policy`, as far as it can be read. */
function policyName(node: Node, kind: string, text: string, document: number): string | undefined {
  if (kind === 'Rules') return document === 0 ? `Rules/${text}` : `Rules/${text}/${document}`;
  const name = textAt(node, 'metadata', 'name');
  if (name === undefined || name === '' || !API_VERSIONS.has(kind)) return undefined;
  if (kind === CLUSTERWIDE || kind === CIDR_GROUP) return `${kind}/${name}`;
  const namespace = textAt(node, 'metadata', 'namespace') ?? '';
  // A namespace that is no text must not pass for a missing one: that would be the name of another object.
  const written = nodeAt(node, ['metadata', 'namespace']);
  if (namespace === '' && !(written === undefined || (written.kind === 'scalar' && written.value === '')))
    return undefined;
  if (namespace === '') return kind === KUBERNETES ? `${kind}/default/${name}` : `${kind}/${name}`;
  return `${kind}/${namespace}/${name}`;
}

type Content =
  | { readonly type: 'policy'; readonly rules: readonly Rule[] }
  | Pick<Extract<PolicyObject, { type: 'cidr-group' }>, 'type' | 'name' | 'labels' | 'prefixes'>;

function readObject(at: Cursor, kind: string): Content {
  if (kind === 'Rules') return { type: 'policy', rules: readRaw(at) };
  const versions = API_VERSIONS.get(kind);
  if (versions === undefined)
    return at.fail(`unknown kind ${shown(kind)}; known are ${[...API_VERSIONS.keys()].join(', ')}`);
  const known = kind === KUBERNETES || kind === CIDR_GROUP ? ['spec'] : ['spec', 'specs'];
  const fields = at.fields(['apiVersion', 'kind', 'metadata', 'status', ...known]);
  const version = fields.string('apiVersion') ?? '';
  if (!versions.includes(version)) {
    (fields.get('apiVersion') ?? at).fail(`${kind} has apiVersion ${versions.join(' or ')}, not ${shown(version)}`);
  }
  const metadata = readMetadata(fields, kind);
  if (kind === CIDR_GROUP) return readGroup(fields, metadata);
  if (kind === KUBERNETES) {
    const namespace = metadata.namespace === '' ? 'default' : metadata.namespace;
    const ownLabels = originLabels({ kind, ...metadata, namespace });
    const spec = fields.get('spec') ?? at.fail('Invalid NetworkPolicy: it has no spec');
    return { type: 'policy', rules: [readKubernetesRule(spec, { namespace, audit: metadata.audit, ownLabels })] };
  }
  return { type: 'policy', rules: readCilium(fields, kind, metadata) };
}

interface Metadata {
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  readonly audit: boolean;
  readonly labels: readonly (readonly [string, string])[];
}

function readMetadata(fields: Fields, kind: string): Metadata {
  const at = fields.get('metadata') ?? fields.at.fail(`${kind} must have name`);
  // Whatever else Kubernetes keeps here is of no meaning for a policy.
  const known = at.node.kind === 'map' ? [...at.node.entries.keys()] : [];
  const inner = at.fields(known);
  const name = inner.string('name') ?? '';
  if (name === '') at.fail(`${kind} must have name`);
  const annotations = inner.get('annotations')?.strings() ?? [];
  let audit = false;
  for (const [key, value, place] of annotations) {
    if (key !== AUDIT_ANNOTATION) continue;
    audit = value === 'true';
    if (!audit && value !== 'false') place.context.warn(place, `${AUDIT_ANNOTATION} must be "true" or "false"`);
  }
  return {
    name,
    namespace: inner.string('namespace') ?? '',
    uid: inner.string('uid') ?? '',
    audit,
    labels: (inner.get('labels')?.strings() ?? []).map(([key, value]) => [key, value]),
  };
}

function readCilium(fields: Fields, kind: string, metadata: Metadata): Rule[] {
  const at = fields.at;
  const namespaced = kind === CILIUM && metadata.namespace !== '';
  if (kind === CILIUM && !namespaced) {
    at.context.warn(at, 'the policy has no namespace: it is read as a clusterwide one, as Cilium does with files');
  }
  if (kind === CLUSTERWIDE && metadata.namespace !== '') at.context.warn(at, 'the namespace has no meaning here');
  const spec = fields.get('spec');
  const specs = fields.get('specs')?.items();
  if (spec === undefined && specs === undefined) at.fail(`Invalid ${kind}: one of spec and specs must be given`);
  const namespace = namespaced ? metadata.namespace : '';
  const common = {
    scope: namespaced ? ({ kind: 'namespace', namespace } as const) : ({ kind: 'clusterwide' } as const),
    audit: metadata.audit,
    ownLabels: originLabels({ kind, ...metadata, namespace }),
  };
  const read = (where: 'spec' | 'specs', rule: Cursor): Rule => {
    try {
      return readRule(rule, { ...common, noNodes: namespaced && where === 'spec' });
    } catch (error) {
      if (!(error instanceof LanguageError)) throw error;
      throw new LanguageError(error.path, error.line, `Invalid ${kind} ${where}: ${error.message}`);
    }
  };
  return [...(spec === undefined ? [] : [read('spec', spec)]), ...(specs ?? []).map((rule) => read('specs', rule))];
}

/** Rules without an object around them. */
function readRaw(at: Cursor): Rule[] {
  const reading = { scope: { kind: 'raw' } as const, audit: false, noNodes: false, ownLabels: [] };
  if (at.node.kind === 'list') return at.items().map((item) => readRule(item, reading));
  const isRule =
    at.node.kind === 'map' && RULE_FIELDS.some((name) => at.node.kind === 'map' && at.node.entries.has(name));
  if (!isRule) at.fail('neither an object with kind and apiVersion, nor a rule, nor a list of rules');
  return [readRule(at, reading)];
}

function readGroup(fields: Fields, metadata: Metadata): Content {
  const spec = fields.get('spec') ?? fields.at.fail(`Invalid ${CIDR_GROUP}: it has no spec`);
  const prefixes = (spec.fields(['externalCIDRs']).items('externalCIDRs') ?? []).map((item) => {
    const text = item.string();
    return (text.includes('/') ? parsePrefix(text) : undefined) ?? item.fail(`unable to parse CIDR: ${shown(text)}`);
  });
  // The objects of a cluster have labels of source k8s.
  const labels = labelSet(metadata.labels.map(([key, value]) => makeLabel('k8s', key, value)));
  return { type: 'cidr-group', name: metadata.name, labels, prefixes };
}
