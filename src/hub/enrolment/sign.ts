import type { CertificateAnswer } from '../../api/enrolment.ts';
import { MeshError } from '../../core/errors.ts';
import type { IssuedCertificate } from '../../pki/authority.ts';
import { publicKeyHash } from '../../pki/keys.ts';
import { readRequest, type VerifiedRequest } from '../../pki/request.ts';
import { machineUser } from '../etcd/machine-access.ts';
import type { StoredCertificate } from './books.ts';
import type { EnrolmentContext } from './context.ts';
import { type LiveWorkload, readWorkload } from './workload-state.ts';

/** A refusal that says to the machine less than to the administrator. */
export class Refusal extends MeshError {
  /** For the audit. */
  readonly reason: string;

  constructor(code: MeshError['code'], detail: string, reason = detail) {
    super(code, detail);
    this.name = 'Refusal';
    this.reason = reason;
  }
}

/** Reads a request that must be for the user of this workload. @throws Refusal PKI-REQUEST, JOIN-WRONG-NAME */
export function requestFor(workload: string, pem: string): VerifiedRequest {
  let request: VerifiedRequest;
  try {
    request = readRequest(pem);
  } catch (error) {
    if (error instanceof MeshError) throw new Refusal(error.code, detailOf(error));
    throw error;
  }
  if (request.commonName !== machineUser(workload)) {
    const asked = JSON.stringify(request.commonName.slice(0, 100));
    throw new Refusal('JOIN-WRONG-NAME', '', `${asked} was asked for, ${machineUser(workload)} is granted`);
  }
  return request;
}

/** Signs, and says what is to be kept of it. */
export function sign(
  context: EnrolmentContext,
  facts: {
    readonly request: VerifiedRequest;
    readonly workload: string;
    readonly live: LiveWorkload;
    readonly from: string;
  },
): { readonly issued: IssuedCertificate; readonly stored: StoredCertificate } {
  const { request, workload, live, from } = facts;
  const issued = context.ca.issueClient({
    commonName: machineUser(workload),
    publicKey: request.publicKey,
    seconds: context.certificateSeconds,
  });
  const stored = {
    workload,
    workloadKey: live.key,
    workloadUid: live.uid,
    keyHash: publicKeyHash(request.publicKey),
    issuedAt: context.now(),
    notAfter: issued.notAfter.getTime(),
    from,
    pem: issued.pem,
  };
  return { issued, stored };
}

/**
 * Lets the machine into the store before it has the certificate. Who revoked it in between has removed the user maybe
 * before we made it: so the certificate is looked at once more, and the user goes if it is not good any more.
 * @throws Refusal JOIN-REVOKED; MeshError KVS-*
 */
export async function letIn(
  context: EnrolmentContext,
  serial: string,
  certificate: StoredCertificate,
): Promise<CertificateAnswer> {
  const { workload } = certificate;
  await context.access.grant(workload);
  const now = await context.books.certificate(serial);
  if (now === undefined || now.value.revokedAt !== undefined) {
    await context.access.revoke(workload);
    throw new Refusal('JOIN-REVOKED', 'it was revoked at this moment');
  }
  return answerWith(context, certificate);
}

/** The workload that a token or certificate was made for, if it is still there. @throws Refusal JOIN-NO-WORKLOAD */
export async function liveWorkload(
  context: EnrolmentContext,
  made: { readonly workload: string; readonly workloadKey: string; readonly workloadUid: string },
): Promise<LiveWorkload> {
  const live = await readWorkload(context, made.workloadKey);
  const problem = typeof live === 'string' ? live : live.uid === made.workloadUid ? undefined : 'it was made anew';
  if (typeof live === 'string' || problem !== undefined)
    throw new Refusal('JOIN-NO-WORKLOAD', `${made.workload}: ${problem}`);
  return live;
}

export function answerWith(context: EnrolmentContext, certificate: StoredCertificate): CertificateAnswer {
  const { config, ca } = context;
  const hubs = context.hubs();
  return {
    certificate: certificate.pem,
    ca: ca.certificate,
    notAfter: new Date(certificate.notAfter).toISOString(),
    workload: { name: certificate.workload },
    cluster: { name: config.cluster.name, id: config.cluster.id },
    endpoints: hubs.map(({ store }) => store),
    hubs: hubs.map(({ enrolment }) => enrolment),
  };
}

/** What an error says beyond the summary of its code. */
export function detailOf(error: MeshError): string {
  const at = error.message.indexOf(': ');
  return at < 0 ? '' : error.message.slice(at + 2);
}
