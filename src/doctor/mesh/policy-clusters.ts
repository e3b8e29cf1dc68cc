import type { CheckRecord } from '../../api/doctor-types.ts';
import { nearest } from '../../config/nearest.ts';
import { Findings } from '../check.ts';

export interface PolicyFact {
  readonly name: string;
  readonly source: string;
  /** The rules in the form in which they are shown. */
  readonly rules: unknown;
}

export interface KnownCluster {
  readonly name: string;
  readonly identities: number;
}

const GROUP = { group: 'policies', name: 'policy-clusters' } as const;
/** Section 3.3 of the description of the mesh; with any source in front. */
const CLUSTER_LABEL = /(?:^|[:.])io\.cilium\.k8s\.policy\.cluster$/;
const EXAMPLES = 10;
const MAX_DEPTH = 24;

/** Why a policy for another cluster has no effect: its name is not one of ours, or nothing came from there. */
export function judgePolicyClusters(policies: Iterable<PolicyFact>, clusters: readonly KnownCluster[]): CheckRecord[] {
  const findings = new Findings(GROUP);
  const known = new Map(clusters.map((each) => [each.name, each]));
  let count = 0;
  for (const { name, source, rules } of policies) {
    for (const cluster of clustersIn(rules)) {
      count++;
      if (findings.list.length >= EXAMPLES) continue;
      const found = known.get(cluster);
      const details = { subject: `${cluster}: ${name}`, place: source };
      if (found === undefined) {
        const close = nearest(cluster, known.keys());
        const guess = close === undefined ? '' : `; did you mean ${close}?`;
        findings.error('POL-CLUSTER', `no cluster of this mesh is called ${JSON.stringify(cluster)}${guess}`, details);
      } else if (found.identities === 0) {
        findings.warning(
          'POL-CLUSTER',
          `no identity came from ${cluster} yet, so the rule matches nobody there`,
          details,
        );
      }
    }
  }
  if (findings.list.length === 0)
    findings.ok(
      count === 0 ? 'no policy names a cluster' : `every cluster that a policy names is there, with identities`,
    );
  return findings.list;
}

/** Names in selectors, each once: `matchLabels`, and the values of `In`. */
function clustersIn(rules: unknown): Set<string> {
  const found = new Set<string>();
  const walk = (value: unknown, depth: number): void => {
    if (typeof value !== 'object' || value === null || depth > MAX_DEPTH) return;
    const { key, operator, values } = value as { key?: unknown; operator?: unknown; values?: unknown };
    if (typeof key === 'string' && CLUSTER_LABEL.test(key) && operator === 'In' && Array.isArray(values))
      for (const each of values) if (typeof each === 'string') found.add(each);
    for (const [name, each] of Object.entries(value)) {
      if (typeof each === 'string' && CLUSTER_LABEL.test(name)) found.add(each);
      else walk(each, depth + 1);
    }
  };
  walk(rules, 0);
  return found;
}
