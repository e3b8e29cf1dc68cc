import type { CheckRecord } from '../api/doctor-types.ts';
import { clusterOf } from './causes.ts';

/** Of a connection that was tried just now: what the agent said of it before is no news. */
const PROBED = /^(KVS-|HST-ROUTE)/;

/**
 * The records of the agent beside those that were found without it, each trouble once: what was probed anew replaces
 * what the agent said of the same cluster's store.
 */
export function mergeRecords(found: readonly CheckRecord[], ofAgent: readonly CheckRecord[]): CheckRecord[] {
  const probed = new Set(
    found.filter(({ code, verdict }) => verdict === 'error' && PROBED.test(code ?? '')).map(clusterOf),
  );
  const known = new Set(found.filter(({ code }) => code !== undefined).map(identityOf));
  const rest = ofAgent.filter(
    (record) => !(record.code?.startsWith('KVS-') && probed.has(clusterOf(record))) && !known.has(identityOf(record)),
  );
  return [...withoutRepeats(found), ...rest];
}

/** A file of a store that is no good is told with the store. */
function withoutRepeats(found: readonly CheckRecord[]): CheckRecord[] {
  const stores = found.filter(({ group }) => group === 'stores');
  return found.filter(
    ({ group, code, place }) =>
      group !== 'configuration' ||
      code === undefined ||
      !stores.some((store) => store.code === code && store.place === place),
  );
}

function identityOf(record: CheckRecord): string {
  return `${record.code ?? record.check} ${clusterOf(record)} ${record.code === undefined ? record.subject : ''}`;
}
