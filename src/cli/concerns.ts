import type { StatusRecord } from '../api/types.ts';

/** Something that an operator should see first. */
export interface Concern {
  readonly severity: 'error' | 'warning' | 'waiting';
  readonly subject: string;
  readonly text: string;
  readonly code?: string;
  readonly place?: string;
  readonly remedy?: string;
  readonly since?: number;
}

/**
 * What is wrong, and what is waited for, worst first. What the agent's health does not say of itself follows from the
 * other records: a state that is not "ok" always has a reason here.
 */
export function concernsOf(status: StatusRecord): Concern[] {
  const found: Concern[] = [...status.health].sort((a, b) => rank(a.severity) - rank(b.severity));
  const known = (subject: string): boolean => found.some((each) => each.subject === subject);
  const { registration, clusters, datapath } = status;
  if (status.state === 'not-joined' && registration.state !== 'registered') {
    found.push({
      severity: 'waiting',
      subject: 'registration',
      text: registration.waitingFor ?? `the registration is ${registration.state}`,
      since: registration.since,
    });
  }
  for (const cluster of clusters) {
    const subject = `cluster/${cluster.name}`;
    if (cluster.ready || known(subject)) continue;
    found.push({
      severity: 'waiting',
      subject,
      text: cluster.reason ?? cluster.store.summary,
      since: cluster.store.since,
    });
  }
  if (!datapath.applied && datapath.name !== 'none' && !known('datapath')) {
    const { error } = datapath;
    found.push(
      error === undefined
        ? { severity: 'waiting', subject: 'datapath', text: 'the policy is not in the kernel yet' }
        : { severity: 'error', subject: 'datapath', text: error.message, code: error.code, since: error.since },
    );
  }
  return found;
}

function rank(severity: Concern['severity']): number {
  return severity === 'error' ? 0 : 1;
}
