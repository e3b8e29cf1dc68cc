import { timingSafeEqual } from 'node:crypto';
import type { CertificateAnswer } from '../../api/enrolment.ts';
import { MeshError } from '../../core/errors.ts';
import { type JoinToken, parseJoinToken } from '../../pki/join-token.ts';
import { publicKeyHash } from '../../pki/keys.ts';
import type { VerifiedRequest } from '../../pki/request.ts';
import { type Held, putCertificate, putToken, type StoredToken, stateOf } from './books.ts';
import type { EnrolmentContext } from './context.ts';
import { detailOf, letIn, liveWorkload, Refusal, requestFor, sign } from './sign.ts';
import { secretHash } from './tokens.ts';

/**
 * An answer may get lost on its way, and the token is used then. So for this time the machine that used it, and shows that
 * it has the same key, is given the same certificate again; for everyone else the token is worth nothing.
 */
const REPEAT_MS = 10 * 60_000;
const MAX_TRIES = 5;

/**
 * A token and a request for a certificate. The token is used, the certificate is kept and the act is on record in one
 * transaction that holds only if the token is still what it was: of two that come at once, one wins.
 * @throws Refusal, which is on record; MeshError KVS-* when the store is away: the same request may be sent again then
 */
export async function joinMachine(
  context: EnrolmentContext,
  body: { readonly token: string; readonly request: string },
  from: string,
): Promise<CertificateAnswer> {
  let token: JoinToken | undefined;
  try {
    token = readToken(context, body.token);
    for (let tries = 0; tries < MAX_TRIES; tries++) {
      const answer = await tryOnce(context, { token, request: body.request, from });
      if (answer !== undefined) return answer;
    }
    throw new MeshError('JOIN-BUSY', 'the token changes all the time');
  } catch (error) {
    if (error instanceof Refusal) {
      await context.audit.refuse({
        event: 'join-refused',
        from,
        code: error.code,
        reason: error.reason,
        // What a stranger writes is told as what it is: a claim.
        ...(token !== undefined && { workload: token.workload, token: token.id }),
      });
    }
    throw error;
  }
}

/** @throws Refusal */
function readToken(context: EnrolmentContext, text: string): JoinToken {
  let token: JoinToken;
  try {
    token = parseJoinToken(text);
  } catch (error) {
    if (error instanceof MeshError) throw new Refusal(error.code, detailOf(error), `malformed: ${detailOf(error)}`);
    throw error;
  }
  if (token.caHash !== context.ca.publicKeyHash) throw new Refusal('JOIN-TOKEN-UNKNOWN', 'it is for another hub');
  return token;
}

interface Attempt {
  readonly token: JoinToken;
  readonly request: string;
  readonly from: string;
}

/** undefined when the token changed in between: look again. */
async function tryOnce(context: EnrolmentContext, attempt: Attempt): Promise<CertificateAnswer | undefined> {
  const { token, from } = attempt;
  const held = await context.books.token(token.id);
  // To a stranger there is no difference between a token that is unknown and one that is guessed.
  if (held === undefined) throw new Refusal('JOIN-TOKEN-UNKNOWN', '', 'there is no such token');
  const { value: stored, unchanged } = held;
  const [given, kept] = [Buffer.from(secretHash(token.secret), 'hex'), Buffer.from(stored.hash, 'hex')];
  if (given.length !== kept.length || !timingSafeEqual(given, kept))
    throw new Refusal('JOIN-TOKEN-UNKNOWN', '', 'forged: the secret is wrong');
  if (stored.workload !== token.workload)
    throw new Refusal('JOIN-TOKEN-UNKNOWN', '', `forged: the token is for ${stored.workload}`);
  const request = requestFor(stored.workload, attempt.request);
  const state = stateOf(stored, context.now());
  if (state === 'used') return repeat(context, { token, held, request, from });
  if (state === 'withdrawn') throw new Refusal('JOIN-TOKEN-USED', '', 'the token is withdrawn');
  if (state === 'expired') throw new Refusal('JOIN-TOKEN-EXPIRED', `since ${new Date(stored.expiresAt).toISOString()}`);
  const { workload } = stored;
  const live = await liveWorkload(context, stored);
  const { issued, stored: signed } = sign(context, { request, workload, live, from });
  const { serial } = issued;
  const certificate = { ...signed, token: token.id };
  const used = { ...stored, usedAt: context.now(), usedFrom: from, usedKey: certificate.keyHash, serial };
  const entry = { event: 'joined', workload, by: `machine ${workload}`, from, token: token.id, serial } as const;
  const { succeeded } = await context.store.transact({
    when: [unchanged, live.unchanged],
    perform: [...putToken(token.id, used), ...putCertificate(serial, certificate), context.audit.operation(entry)],
  });
  return succeeded ? letIn(context, serial, certificate) : undefined;
}

async function repeat(
  context: EnrolmentContext,
  facts: {
    readonly token: JoinToken;
    readonly held: Held<StoredToken>;
    readonly request: VerifiedRequest;
    readonly from: string;
  },
): Promise<CertificateAnswer> {
  const { token, held, request, from } = facts;
  const { usedKey, usedAt = 0, usedFrom = '', serial = '', workload } = held.value;
  const when = new Date(usedAt).toISOString();
  if (usedKey !== publicKeyHash(request.publicKey))
    throw new Refusal('JOIN-TOKEN-USED', '', `replayed: it was used at ${when} from ${usedFrom}`);
  if (context.now() - usedAt > REPEAT_MS)
    throw new Refusal('JOIN-TOKEN-USED', '', `replayed with the same key, too late: it was used at ${when}`);
  const certificate = await context.books.certificate(serial);
  if (certificate === undefined || certificate.value.revokedAt !== undefined)
    throw new Refusal('JOIN-TOKEN-USED', '', 'replayed: its certificate is revoked');
  const answer = await letIn(context, serial, certificate.value);
  await context.audit.write({
    event: 'join-repeated',
    workload,
    by: `machine ${workload}`,
    from,
    token: token.id,
    serial,
    reason: 'the same key was given the same certificate again',
  });
  return answer;
}
