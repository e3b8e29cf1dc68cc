import type { CheckRecord } from '../../api/doctor-types.ts';
import type { MeshError } from '../../core/errors.ts';
import { Findings } from '../check.ts';

/** What a hub answered. Times are milliseconds since the epoch. */
export interface HubEvidence {
  readonly url: string;
  /** When it was asked, and when it had answered. */
  readonly before: number;
  readonly after: number;
  /** What it takes for the time, in whole seconds. */
  readonly time: number | undefined;
  readonly version: string | undefined;
  readonly failure?: MeshError;
}

/** Certificates begin an hour early, tokens and leases live for minutes. */
const SKEW_MS = 30_000;

/** The clock of the hub against ours, and its version. */
export function judgeHub(hubs: readonly HubEvidence[], ownVersion: string): CheckRecord[] {
  const findings = new Findings({ group: 'agent', name: 'hub' });
  const silent = hubs.filter(({ failure }) => failure !== undefined);
  for (const { url, failure } of silent) {
    if (failure === undefined) continue;
    const details = { subject: url };
    if (silent.length === hubs.length) findings.error(failure.code, failure.message, details);
    else findings.warning(failure.code, failure.message, details);
  }
  for (const { url, before, after, time, version } of hubs) {
    if (time !== undefined) {
      // The hub cuts its time to seconds.
      const [ahead, behind] = [before - (time + 1000), time - after];
      const skew = Math.max(ahead, behind);
      if (skew > SKEW_MS)
        findings.error(
          'HST-CLOCK',
          `the clock of this machine is ${Math.round(skew / 1000)} s ${ahead > 0 ? 'ahead of' : 'behind'} that of the hub`,
          { subject: url },
        );
    }
    if (version !== undefined && lineOf(version) !== lineOf(ownVersion))
      findings.warning('AGT-VERSION', `the hub is version ${version}, this agent ${ownVersion}`, { subject: url });
  }
  if (findings.list.length === 0)
    findings.ok(`${hubs.length === 1 ? 'the hub answers' : `${hubs.length} hubs answer`}; the clocks agree`);
  return findings.list;
}

/** Versions of one line (`1.4`) fit together. */
function lineOf(version: string): string {
  return version.split('.').slice(0, 2).join('.');
}
