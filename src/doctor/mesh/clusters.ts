import type { CheckRecord } from '../../api/doctor-types.ts';
import type { ClusterRecord, HealthRecord, StatusRecord } from '../../api/types.ts';
import { Findings } from '../check.ts';

/** Facts that are older get a word, milliseconds: below it is a reconnect. */
const STALE_MS = 60_000;
/** Foreign changes that were undone longer ago are history, milliseconds. */
const RECENT_MS = 15 * 60_000;

/** What the running agent knows to be wrong already; `doctor` adds causes, not copies. */
export function judgeHealth(health: readonly HealthRecord[]): CheckRecord[] {
  const findings = new Findings({ group: 'agent', name: 'health' });
  for (const { code, severity, subject, text, place, remedy } of health) {
    const details = { subject: subject.replace(/^cluster\//, ''), remedy, ...(place !== undefined && { place }) };
    if (severity === 'error') findings.error(code, text, details);
    else findings.warning(code, text, details);
  }
  if (health.length === 0) findings.ok('the agent knows of nothing that is wrong');
  return findings.list;
}

/** Whether the machine is known to its cluster. What was said to be wrong with that is said already (`told`). */
export function judgeRegistration(
  { state, waitingFor, key }: StatusRecord['registration'],
  { subject, told }: { readonly subject: string; readonly told: readonly HealthRecord[] },
): CheckRecord[] {
  const findings = new Findings({ group: 'agent', name: 'registration' });
  const known = told.some(
    ({ code }) => code === 'MSH-REGISTRATION' || code === 'MSH-REFUSED' || code === 'AGT-KVSTORE',
  );
  if (state === 'registered') findings.ok('this machine is registered', { subject });
  else if (!known)
    findings.error('MSH-REGISTRATION', waitingFor ?? `the registration is ${state}`, { subject, place: key });
  return findings.list;
}

/** The age of what is enforced, cluster by cluster. */
export function judgeAges(clusters: readonly ClusterRecord[], now: number): CheckRecord[] {
  const findings = new Findings({ group: 'clusters', name: 'age' });
  for (const { name, freshAt, connected, ready, numNodes, numEndpoints, numIdentities, numServices } of clusters) {
    const age = connected ? 0 : now - (freshAt ?? now);
    const subject = { subject: name };
    if (age > STALE_MS)
      findings.warning('MSH-STALE', `its facts are ${Math.round(age / 60_000)} min old, and in force`, subject);
    else if (connected && ready)
      findings.ok(
        `in sync: ${numNodes} nodes, ${numEndpoints} endpoints, ${numIdentities} identities, ${numServices} services`,
        subject,
      );
  }
  return findings.list;
}

export interface DriftFacts {
  readonly datapath: StatusRecord['datapath'];
  /** Foreign changes that were undone, by time: milliseconds since the epoch. */
  readonly healedAt: readonly number[];
  /** In the kernel's own words: who did the last one. */
  readonly lastHand: string | undefined;
}

/** Whether the kernel holds what is desired, and whether somebody works against it. */
export function judgeDrift({ datapath, healedAt, lastHand }: DriftFacts, now: number): CheckRecord[] {
  const findings = new Findings({ group: 'network', name: 'drift' });
  if (datapath.name === 'none') {
    findings.skipped('`datapath: none`: nothing is enforced');
    return findings.list;
  }
  const recent = healedAt.filter((at) => now - at < RECENT_MS).length;
  const who = lastHand === undefined ? '' : ` (the last one: ${lastHand})`;
  if (recent > 0)
    findings.warning(
      'DPN-DRIFT',
      `${recent} change${recent === 1 ? '' : 's'} of others in our rules within ${RECENT_MS / 60_000} minutes; they were undone${who}`,
    );
  if (!datapath.applied && datapath.error === undefined)
    findings.warning('AGT-DRIFT', `what is desired is not in the kernel yet, for ${Math.round(datapath.lagMs)} ms`);
  if (findings.list.length === 0)
    findings.ok(
      `the kernel holds what is desired (${datapath.entries.addresses + datapath.entries.prefixes} addresses, ${datapath.entries.policyRows} policy entries)`,
    );
  return findings.list;
}
