import type { CheckRecord } from '../../api/doctor-types.ts';
import { Findings } from '../check.ts';

/** A service as one cluster announces it. */
export interface ServiceFact {
  readonly cluster: string;
  readonly namespace: string;
  readonly name: string;
  /** It takes the backends of other clusters, and gives them its own. */
  readonly global: boolean;
  readonly shared: boolean;
  readonly backends: number;
}

const GROUP = { group: 'services', name: 'global-services' } as const;
const EXAMPLES = 10;

/** Why a global service lacks backends of other clusters (section 8.3 of the description of the mesh). */
export function judgeServices(services: Iterable<ServiceFact>, clusters: readonly string[]): CheckRecord[] {
  const findings = new Findings(GROUP);
  const byName = new Map<string, ServiceFact[]>();
  const byBareName = new Map<string, Set<string>>();
  for (const service of services) {
    const key = `${service.namespace}/${service.name}`;
    byName.set(key, [...(byName.get(key) ?? []), service]);
    byBareName.set(service.name, (byBareName.get(service.name) ?? new Set()).add(key));
  }
  let globals = 0;
  for (const [name, facts] of byName) {
    if (!facts.some(({ global }) => global)) continue;
    globals++;
    if (findings.list.length < EXAMPLES)
      judgeOne(name, { facts, others: byBareName.get(facts[0]?.name ?? '') }, findings);
  }
  if (findings.list.length === 0) {
    const where = `of ${clusters.length} cluster${clusters.length === 1 ? '' : 's'}`;
    findings.ok(
      globals === 0
        ? `no cluster announces a global service (${where})`
        : `${globals} global services ${where} have backends`,
    );
  }
  return findings.list;
}

function judgeOne(
  name: string,
  { facts, others }: { readonly facts: readonly ServiceFact[]; readonly others: ReadonlySet<string> | undefined },
  findings: Findings,
): void {
  const closed = facts.filter(({ global, shared }) => !shared || !global);
  for (const { cluster, global } of closed) {
    const missing = global
      ? 'annotation `service.cilium.io/shared` is "false"'
      : 'annotation `service.cilium.io/global` ("true") is missing';
    findings.warning('MSH-NOT-SHARED', `${cluster} has it too, but does not share its backends: the ${missing}`, {
      subject: `${cluster}: ${name}`,
    });
  }
  const sharing = facts.filter(({ shared, global }) => shared && global);
  const empty = sharing.filter(({ backends }) => backends === 0);
  for (const { cluster } of empty) {
    const only = empty.length === sharing.length;
    const text = only
      ? 'no cluster has a backend for it: connections are refused'
      : `${cluster} shares it, but has no backend for it`;
    if (only) findings.error('MSH-NO-BACKENDS', text, { subject: `${cluster}: ${name}` });
    else findings.warning('MSH-NO-BACKENDS', text, { subject: `${cluster}: ${name}` });
    if (only) break;
  }
  const elsewhere = [...(others ?? [])].filter((other) => other !== name);
  if (facts.length === 1 && elsewhere.length > 0)
    findings.warning(
      'MSH-SERVICE-NAME',
      `only ${facts[0]?.cluster} has it; there is also ${elsewhere.slice(0, 3).join(', ')}: the namespace must be the same for both to be one service`,
      {
        subject: `${facts[0]?.cluster}: ${name}`,
      },
    );
}
