import { identity, type NumericIdentity } from '../src/core/identity.ts';
import { type LabelSet, labelSet, parseLabel } from '../src/core/labels.ts';
import { parsePolicies } from '../src/policy/language/parse.ts';
import { PolicyModel } from '../src/policy/model.ts';
import type { Rule } from '../src/policy/rule.ts';
import type { Row } from './row.ts';

/**
 * The policy model alone. A thousand policies, all of which select the machine: four in five allow an application on
 * one port or a range, the rest deny an application, allow prefixes, or allow a port for everyone.
 */
const SETTINGS = {
  clusterName: 'alpha',
  dualStack: true,
  enforcement: 'default',
  allowLocalhost: 'policy',
  defaultLocalCluster: false,
} as const;

const POLICIES = 1_000;
const APPLICATIONS = 600;
const SUBJECT = labelSet(['k8s:app=db', 'k8s:io.kubernetes.pod.namespace=shop'].map(parseLabel));

function policyOf(index: number, port = 1_000 + index): readonly Rule[] {
  const app = `app-${index % APPLICATIONS}`;
  const entry =
    index % 10 === 3
      ? `toPorts: [{ports: [{port: "${port}", protocol: TCP}]}]`
      : index % 10 === 7
        ? `fromCIDRSet: [{cidr: 10.${index % 256}.0.0/16, except: [10.${index % 256}.8.0/24]}]`
        : `fromEndpoints: [{matchLabels: {app: ${app}}}], toPorts: [{ports: [{port: "${port}", endPort: ${port + (index % 4)}, protocol: TCP}]}]`;
  const deny = index % 10 === 5 ? `ingressDeny: [{fromEndpoints: [{matchLabels: {app: ${app}, tier: web}}]}]` : '';
  const spec = `endpointSelector: {matchLabels: {app: db}}, ingress: [{${entry}}]${deny === '' ? '' : `, ${deny}`}`;
  const text = `{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: p${index}, namespace: shop}, spec: {${spec}}}`;
  const [object] = parsePolicies(text).objects;
  if (object?.type !== 'policy') throw new Error(`the policy ${index} is not accepted`);
  return object.rules;
}

function labelsOf(index: number): LabelSet {
  return labelSet(
    [
      `k8s:app=app-${index % (APPLICATIONS * 2)}`,
      `k8s:tier=${index % 3 === 0 ? 'web' : 'data'}`,
      `k8s:instance=i${index}`,
      'k8s:io.cilium.k8s.policy.cluster=alpha',
      'k8s:io.cilium.k8s.policy.serviceaccount=default',
      'k8s:io.kubernetes.pod.namespace=shop',
    ].map(parseLabel),
  );
}

const idOf = (index: number): NumericIdentity => identity(0x1_0000 + index);

function timed(work: () => void): number {
  const start = performance.now();
  work();
  return performance.now() - start;
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

function used(): number {
  globalThis.gc?.();
  return process.memoryUsage().heapUsed / 2 ** 20;
}

interface Filled {
  readonly model: PolicyModel;
  readonly full: number;
}

function fill(identities: number, policies: readonly (readonly Rule[])[]): Filled {
  const labels = Array.from({ length: identities }, (_, index) => labelsOf(index));
  const model = new PolicyModel(SETTINGS);
  const full = timed(() => {
    model.setSubject(SUBJECT);
    for (const [index, each] of labels.entries()) model.setIdentity(idOf(index), each);
    for (const [index, rules] of policies.entries()) model.setPolicies(`p${index}`, rules);
    model.drainChanges();
  });
  return { model, full };
}

export async function run(): Promise<Row[]> {
  const policies = Array.from({ length: POLICIES }, (_, index) => policyOf(index));
  const before = used();
  const { model, full } = fill(10_000, policies);
  const memory = used() - before;
  const added: number[] = [];
  for (let index = 0; index < 50; index++) {
    added.push(
      timed(() => {
        model.setIdentity(idOf(20_000 + index), labelsOf(20_000 + index));
        model.drainChanges();
      }),
    );
  }
  let longest = 0;
  const changed = [0, 3, 5, 7].map((kind) => {
    const times: number[] = [];
    for (let round = 0; round < 10; round++) {
      const index = round * 10 + kind;
      const rules = policyOf(index, 30_000 + round);
      times.push(
        timed(() => {
          model.setPolicies(`p${index}`, rules);
          model.drainChanges();
        }),
      );
    }
    longest = Math.max(longest, ...times);
    return median(times);
  });
  const classes = [...model.resolved.ingress.classes()].length;
  const rows: Row[] = [
    { name: '10,000 identities, 1,000 policies: from nothing', value: full, unit: 'ms', bar: '< 2000' },
    { name: 'the same: memory', value: memory, unit: 'MB', bar: '< 150' },
    { name: 'the same: classes', value: classes, unit: '' },
    { name: 'one identity more, median', value: median(added), unit: 'ms', bar: '< 5' },
    { name: 'one identity more, longest', value: Math.max(...added), unit: 'ms' },
    { name: 'one policy changed: a port of an application', value: changed[0] ?? 0, unit: 'ms', bar: '< 50' },
    { name: 'one policy changed: a port for everyone', value: changed[1] ?? 0, unit: 'ms', bar: '< 50' },
    { name: 'one policy changed: a denial', value: changed[2] ?? 0, unit: 'ms', bar: '< 50' },
    { name: 'one policy changed: prefixes', value: changed[3] ?? 0, unit: 'ms', bar: '< 50' },
    { name: 'one policy changed: the longest of 40', value: longest, unit: 'ms' },
  ];
  for (const count of [1_000, 10_000, 100_000]) {
    const best = Math.min(fill(count, policies).full, fill(count, policies).full);
    rows.push({ name: `${count.toLocaleString('en')} identities: from nothing`, value: best, unit: 'ms' });
  }
  return rows;
}

if (import.meta.main) {
  for (const { name, value, unit, bar } of await run()) {
    process.stdout.write(`${name.padEnd(52)} ${value.toFixed(2).padStart(10)} ${unit} ${bar ?? ''}\n`);
  }
}
