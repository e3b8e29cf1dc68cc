import { createHash } from 'node:crypto';
import type { NewTokenRecord, TokenRecord } from '../../api/enrolment.ts';
import { API_VERSION } from '../../api/types.ts';
import { MeshError } from '../../core/errors.ts';
import { formatJoinToken, makeJoinToken } from '../../pki/join-token.ts';
import { putToken, type StoredToken, stateOf, tokenRecord } from './books.ts';
import type { EnrolmentContext } from './context.ts';
import { findWorkload } from './workload-state.ts';

const DEFAULT_TTL_SECONDS = 3600;
const MIN_TTL_SECONDS = 10;
const MAX_TTL_SECONDS = 30 * 86_400;

/** SHA-256 is enough: the secret has 192 random bits, there is nothing to guess. */
export function secretHash(secret: Buffer): string {
  return createHash('sha256').update(secret).digest('hex');
}

/**
 * Makes a join token for a workload that exists. The answer is the only place where it can be read.
 * @throws MeshError HUB-TOKEN, JOIN-NO-WORKLOAD, KVS-*
 */
export async function createToken(
  context: EnrolmentContext,
  request: { readonly workload: string; readonly ttlSeconds?: number; readonly by: string },
): Promise<NewTokenRecord> {
  const { workload, by, ttlSeconds = DEFAULT_TTL_SECONDS } = request;
  if (!(ttlSeconds >= MIN_TTL_SECONDS && ttlSeconds <= MAX_TTL_SECONDS))
    throw new MeshError('HUB-TOKEN', 'its life must be from 10 seconds to 30 days');
  const live = await findWorkload(context, workload);
  const hubs = context.hubs().map(({ enrolment }) => enrolment);
  const token = makeJoinToken({ caHash: context.ca.publicKeyHash, workload, hubs });
  const createdAt = context.now();
  const stored: StoredToken = {
    hash: secretHash(token.secret),
    workload,
    workloadKey: live.key,
    workloadUid: live.uid,
    createdAt,
    createdBy: by,
    expiresAt: createdAt + ttlSeconds * 1000,
  };
  const audited = context.audit.operation({ event: 'token-created', workload, by, token: token.id });
  const { succeeded } = await context.store.transact({
    when: [live.unchanged],
    perform: [...putToken(token.id, stored), audited],
  });
  if (!succeeded) throw new MeshError('HUB-TOKEN', `workload ${workload} changed at this moment: try again`);
  const text = formatJoinToken(token);
  const { state, expiresAt } = tokenRecord(token.id, stored, createdAt);
  return {
    apiVersion: API_VERSION,
    kind: 'JoinToken',
    id: token.id,
    workload,
    state,
    createdAt,
    createdBy: by,
    expiresAt,
    token: text,
    hubs,
    command: `mesh-agent join --hub ${hubs[0]} --token ${text}`,
  };
}

/** The newest first. @throws MeshError KVS-* */
export async function listTokens(context: EnrolmentContext): Promise<TokenRecord[]> {
  const tokens = await context.books.tokens();
  const now = context.now();
  return tokens.map(({ id, ...token }) => tokenRecord(id, token, now)).sort((a, b) => b.createdAt - a.createdAt);
}

/** Nobody can use it from then on. @throws MeshError HUB-TOKEN when there is none, or it was used; KVS-* */
export async function withdrawToken(context: EnrolmentContext, id: string, by: string): Promise<void> {
  for (;;) {
    const held = /^[0-9a-f]{20}$/.test(id) ? await context.books.token(id) : undefined;
    if (held === undefined) throw new MeshError('HUB-TOKEN', `there is no token ${JSON.stringify(id.slice(0, 100))}`);
    const { value: token, unchanged } = held;
    const state = stateOf(token, context.now());
    if (state === 'withdrawn') return;
    if (state === 'used')
      throw new MeshError(
        'HUB-TOKEN',
        `${id} was used already: \`mesh-agent hub workload revoke\` ends the certificate`,
      );
    const audited = context.audit.operation({ event: 'token-withdrawn', workload: token.workload, by, token: id });
    const withdrawn = putToken(id, { ...token, withdrawnAt: context.now() });
    if ((await context.store.transact({ when: [unchanged], perform: [...withdrawn, audited] })).succeeded) return;
  }
}
