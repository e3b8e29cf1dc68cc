import { MeshError } from '../../core/errors.ts';
import type { Condition } from '../../kvstore/transaction.ts';
import { decodeWorkload, NAMES_PREFIX, WORKLOADS_PREFIX, workloadKey } from '../workloads/workload.ts';
import type { EnrolmentContext } from './context.ts';

/** A workload that machines may join as, as it was when it was read. */
export interface LiveWorkload {
  readonly key: string;
  /** Another one of the same name has another uid. */
  readonly uid: string;
  /** Holds as long as the object is the same. */
  readonly unchanged: Condition;
}

/** The workload of this name. Names are unique over namespaces. @throws MeshError JOIN-NO-WORKLOAD, KVS-* */
export async function findWorkload(context: EnrolmentContext, name: string): Promise<LiveWorkload> {
  const shown = JSON.stringify(name.slice(0, 100));
  const namespace = (await context.store.read(NAMES_PREFIX + name))?.value.toString('utf8');
  if (name === '' || namespace === undefined) throw new MeshError('JOIN-NO-WORKLOAD', shown);
  const found = await readWorkload(context, workloadKey({ namespace, name }));
  if (typeof found === 'string') throw new MeshError('JOIN-NO-WORKLOAD', `${shown}: ${found}`);
  return found;
}

/** The same by its key; or why it is none. */
export async function readWorkload(context: EnrolmentContext, key: string): Promise<LiveWorkload | string> {
  const stored = await context.store.read(key);
  if (stored === undefined) return 'it was deleted';
  try {
    const { uid, revoked } = decodeWorkload(key.slice(WORKLOADS_PREFIX.length), stored.value);
    if (revoked !== undefined) return 'it is revoked';
    return { key, uid, unchanged: { key, modRevision: stored.modRevision } };
  } catch {
    return 'its object cannot be read';
  }
}
