import type { Condition, Operation } from '../../kvstore/transaction.ts';
import { putCertificate, putToken, stateOf } from './books.ts';
import type { EnrolmentContext } from './context.ts';

export interface Revocation {
  readonly workload: string;
  readonly by: string;
  readonly from?: string;
  readonly event?: 'revoked' | 'left';
  readonly reason?: string;
}

/**
 * Ends everything that a machine has: tokens, certificates, then its user in the store, with its connections and its
 * registration. Repeatable; what was cut off in the middle is finished by `EnrolmentCare`.
 * @returns how many certificates were good until now
 * @throws MeshError KVS-*
 */
export async function revokeMachine(context: EnrolmentContext, revocation: Revocation): Promise<number> {
  const { workload, by, from, event = 'revoked', reason } = revocation;
  const ended = await endPapers(context, { workload, by });
  await context.access.revoke(workload);
  const [serial] = ended;
  await context.audit.write({
    event,
    workload,
    by,
    ...(from !== undefined && { from }),
    ...(serial !== undefined && { serial }),
    reason: reason ?? `${ended.length} certificate${ended.length === 1 ? '' : 's'} ended`,
  });
  return ended.length;
}

/**
 * Open tokens first, so that no certificate can be born any more; then every certificate, until a look at all of them finds
 * none that is good: one may be renewed at this very moment. Those of the workload object `keep` (a uid) stay.
 * @returns serial numbers of certificates that were good until now
 */
export async function endPapers(
  context: EnrolmentContext,
  of: { readonly workload: string; readonly by: string; readonly keep?: string | undefined },
): Promise<string[]> {
  await withdrawAll(context, of);
  const ended: string[] = [];
  for (;;) {
    let found = false;
    for (const serial of await context.books.serials(of.workload)) {
      await change(context, async () => {
        const held = await context.books.certificate(serial);
        if (held === undefined || held.value.revokedAt !== undefined || held.value.workloadUid === of.keep)
          return undefined;
        found = true;
        if (held.value.notAfter > context.now() && !ended.includes(serial)) ended.push(serial);
        const revoked = { ...held.value, revokedAt: context.now(), revokedBy: of.by };
        return { when: held.unchanged, operations: putCertificate(serial, revoked) };
      });
    }
    if (!found) return ended;
  }
}

async function withdrawAll(
  context: EnrolmentContext,
  { workload, keep }: { readonly workload: string; readonly keep?: string | undefined },
): Promise<void> {
  for (const id of await context.books.tokensOf(workload)) {
    await change(context, async () => {
      const held = await context.books.token(id);
      if (held === undefined || held.value.workloadUid === keep) return undefined;
      if (stateOf(held.value, context.now()) !== 'open') return undefined;
      return { when: held.unchanged, operations: putToken(id, { ...held.value, withdrawnAt: context.now() }) };
    });
  }
}

interface Change {
  readonly when: Condition;
  readonly operations: readonly Operation[];
}

/** Looks, and changes what was seen; again when it is not so any more. */
async function change(context: EnrolmentContext, look: () => Promise<Change | undefined>): Promise<void> {
  for (;;) {
    const wanted = await look();
    if (wanted === undefined) return;
    if ((await context.store.transact({ when: [wanted.when], perform: wanted.operations })).succeeded) return;
  }
}
