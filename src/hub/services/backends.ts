import { parseAddress } from '../../core/ip.ts';
import type { MachineService } from '../../kvstore/codec/machine-service.ts';
import type { MachineRecord } from '../registration/machine-record.ts';
import type { Workload } from '../workloads/workload.ts';

/** `active`: gets new connections, from all clusters. The others do not; what runs there goes on. */
export type ServiceBackendState = 'active' | 'draining' | 'unhealthy' | 'no-answer';

/** One address of a machine that a service selects; a machine without one has a row as well. */
export interface ServiceBackend {
  readonly workload: string;
  readonly address: string | undefined;
  readonly state: ServiceBackendState;
  /** Milliseconds since the epoch; undefined for a machine that was never there. */
  readonly since: number | undefined;
  /** Why it is not active, or what is wrong although it is. */
  readonly reason: string | undefined;
}

/**
 * What becomes of a machine in a service that selects it, by what is known of it now. Whoever says nothing is out: a service
 * with checks takes only addresses that passed them, and one that runs on nobody who answers has no backend at all, so that
 * clients get what other clusters have, or are refused at once.
 */
export function backendsOf(
  service: Pick<MachineService, 'namespace' | 'name' | 'checks'>,
  workload: Pick<Workload, 'name' | 'uid' | 'revoked'>,
  found: MachineRecord | undefined,
): readonly ServiceBackend[] {
  // Of another workload that had the same name.
  const record = found?.uid === workload.uid ? found : undefined;
  const row = (
    state: ServiceBackendState,
    more: Partial<Omit<ServiceBackend, 'workload' | 'state'>> = {},
  ): ServiceBackend => ({
    workload: workload.name,
    state,
    address: undefined,
    since: undefined,
    reason: undefined,
    ...more,
  });
  if (workload.revoked !== undefined) return [row('no-answer', { since: workload.revoked, reason: 'it is revoked' })];
  if (record === undefined) return [row('no-answer', { reason: 'it never registered' })];
  const { state, since, reason, serving } = record;
  if (state !== 'registered') return [row('no-answer', { since, reason: reason ?? state })];
  if (serving.addresses.length === 0) return [row('no-answer', { since, reason: 'it reports no address of its own' })];
  return serving.addresses.map((address) => {
    const { drained, silent, unreachable } = serving;
    if (drained !== undefined) return row('draining', { address, since: drained, reason: 'it was drained' });
    if (unreachable !== undefined && service.checks.length === 0)
      return unreachable.kept.includes(`${service.namespace}/${service.name}`)
        ? row('active', { address, since, reason: `${NO_CONNECTION}; kept: most of the service are missing at once` })
        : row('no-answer', { address, since: unreachable.since, reason: NO_CONNECTION });
    if (silent !== undefined && service.checks.length > 0)
      return row('no-answer', { address, since: silent, reason: 'it does not renew its lease' });
    return service.checks.length === 0
      ? row('active', { address, since })
      : row(...checked(service, { address, record }));
  });
}

const NO_CONNECTION = 'no hub has a connection of it';

function checked(
  { namespace, name }: Pick<MachineService, 'namespace' | 'name'>,
  { address, record }: { readonly address: string; readonly record: MachineRecord },
): [ServiceBackendState, Partial<ServiceBackend>] {
  const family = parseAddress(address)?.family ?? 4;
  const report = record.serving.checks.get(`${namespace}/${name}`)?.get(family);
  if (report?.healthy === true) return ['active', { address, since: report.since }];
  if (report !== undefined) return ['unhealthy', { address, since: report.since, reason: report.reason }];
  const reason =
    record.agentVersion === undefined ? 'its agent does not check what it serves' : 'it has not told of its checks yet';
  return ['no-answer', { address, since: record.since, reason }];
}
