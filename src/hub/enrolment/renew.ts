import { X509Certificate } from 'node:crypto';
import type { CertificateAnswer } from '../../api/enrolment.ts';
import { MeshError } from '../../core/errors.ts';
import { publicKeyHash } from '../../pki/keys.ts';
import { machineUser } from '../etcd/machine-access.ts';
import { type Held, putCertificate, type StoredCertificate } from './books.ts';
import type { EnrolmentContext } from './context.ts';
import { revokeMachine } from './revoke.ts';
import { letIn, liveWorkload, Refusal, requestFor, sign } from './sign.ts';
import type { LiveWorkload } from './workload-state.ts';

/** One new certificate a minute for one machine, or one in a tenth of its life. */
const LEAST_MS = 60_000;
const MAX_TRIES = 5;

/** What TLS says of the other side. That it has the key of the certificate is proven by the handshake. */
export interface Peer {
  /** DER; undefined when it showed none. */
  readonly certificate: Buffer | undefined;
  readonly from: string;
}

/**
 * A new certificate for the one that was shown, for the same workload and no other.
 * @throws Refusal, which is on record; MeshError JOIN-BUSY, KVS-*
 */
export async function renewMachine(context: EnrolmentContext, pem: string, peer: Peer): Promise<CertificateAnswer> {
  return asKnown(context, peer, async (known) => {
    const { serial, held, live } = known;
    const { value: old, unchanged } = held;
    const request = requestFor(old.workload, pem);
    const keyHash = publicKeyHash(request.publicKey);
    if (old.renewedBy !== undefined) {
      // The answer was lost: the one that was made then will do.
      const next = await context.books.certificate(old.renewedBy);
      if (next?.value.keyHash === keyHash && next.value.revokedAt === undefined)
        return letIn(context, old.renewedBy, next.value);
    }
    const soonest = old.issuedAt + Math.min(LEAST_MS, (old.notAfter - old.issuedAt) / 10);
    if (context.now() < soonest) throw new MeshError('JOIN-BUSY', 'the certificate was made a moment ago');
    const { issued, stored } = sign(context, { request, workload: old.workload, live, from: peer.from });
    const renewed = { ...stored, renews: serial };
    const { succeeded } = await context.store.transact({
      when: [unchanged, live.unchanged],
      perform: [
        ...putCertificate(serial, { ...old, renewedBy: issued.serial }),
        ...putCertificate(issued.serial, renewed),
      ],
    });
    return succeeded ? letIn(context, issued.serial, renewed) : undefined;
  });
}

/** A machine gives up its certificates, and with them its rights. @throws as `renewMachine` */
export async function leaveMachine(context: EnrolmentContext, peer: Peer): Promise<void> {
  await asKnown(context, peer, async ({ held }) => {
    const { workload } = held.value;
    await revokeMachine(context, { workload, by: `machine ${workload}`, from: peer.from, event: 'left' });
    return true;
  });
}

interface Known {
  readonly serial: string;
  readonly held: Held<StoredCertificate>;
  readonly live: LiveWorkload;
}

/** Does something for the certificate that was shown, until it holds. */
async function asKnown<T>(
  context: EnrolmentContext,
  peer: Peer,
  act: (known: Known) => Promise<T | undefined>,
): Promise<T> {
  let claimed: string | undefined;
  try {
    const certificate = readPeer(peer.certificate);
    claimed = certificate.subject.slice(0, 100);
    for (let tries = 0; tries < MAX_TRIES; tries++) {
      const result = await act(await known(context, certificate));
      if (result !== undefined) return result;
    }
    throw new MeshError('JOIN-BUSY', 'the certificate changes all the time');
  } catch (error) {
    if (error instanceof Refusal) {
      await context.audit.refuse({
        event: 'renew-refused',
        from: peer.from,
        code: error.code,
        reason: error.reason,
        ...(claimed !== undefined && { by: claimed }),
      });
    }
    throw error;
  }
}

function readPeer(data: Buffer | undefined): X509Certificate {
  if (data === undefined) throw new Refusal('JOIN-REVOKED', 'no certificate was shown');
  try {
    return new X509Certificate(data);
  } catch {
    throw new Refusal('JOIN-REVOKED', 'no certificate was shown', 'the certificate cannot be read');
  }
}

/** The certificate as we keep it, if it is ours, valid and good. OpenSSL verifies the signature. @throws Refusal */
async function known(context: EnrolmentContext, certificate: X509Certificate): Promise<Known> {
  const authority = new X509Certificate(context.ca.certificate);
  if (!certificate.checkIssued(authority) || !certificate.verify(authority.publicKey))
    throw new Refusal('JOIN-REVOKED', '', 'the certificate is of another authority');
  const { serialNumber: serial } = certificate;
  const held = await context.books.certificate(serial);
  if (held === undefined) throw new Refusal('JOIN-REVOKED', '', `certificate ${serial} is not one of a machine`);
  const { value } = held;
  if (
    certificate.subject !== `CN=${machineUser(value.workload)}` ||
    publicKeyHash(certificate.publicKey) !== value.keyHash
  )
    throw new Refusal('JOIN-REVOKED', '', `certificate ${serial} is not the one on record`);
  if (value.revokedAt !== undefined)
    throw new Refusal(
      'JOIN-REVOKED',
      `at ${new Date(value.revokedAt).toISOString()}`,
      `certificate ${serial} is revoked`,
    );
  const now = context.now();
  if (now > certificate.validToDate.getTime() || now < certificate.validFromDate.getTime()) {
    const period = `it is valid from ${certificate.validFromDate.toISOString()} to ${certificate.validToDate.toISOString()}`;
    throw new Refusal('JOIN-EXPIRED', period);
  }
  return { serial, held, live: await liveWorkload(context, value) };
}
