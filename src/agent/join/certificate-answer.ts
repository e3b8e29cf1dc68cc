import { type KeyObject, X509Certificate } from 'node:crypto';
import { type CertificateAnswer, machineCommonName } from '../../api/enrolment.ts';
import { MeshError } from '../../core/errors.ts';
import { publicKeyHash } from '../../pki/keys.ts';

const CLIENT_AUTH = '1.3.6.1.5.5.7.3.2';
const PEM = /^-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\s*$/;
const NAME = /^(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;
const CLUSTER_NAME = /^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$/;

export interface Expected {
  /** The key that a certificate was asked for. */
  readonly key: KeyObject;
  readonly workload: string;
  /** SHA-256 of the public key of the hub's authority. */
  readonly caHash: string;
  readonly now: number;
}

/**
 * Reads what the hub answered, and believes only what can be checked: the certificate is for our own key and our own name, for
 * clients, signed by the authority that we pinned, and valid now.
 * @throws MeshError JOIN-ANSWER, JOIN-CLOCK
 */
export function readCertificateAnswer(
  text: string,
  expected: Expected,
): { readonly answer: CertificateAnswer; readonly certificate: X509Certificate } {
  const answer = parse(text);
  const authority = certificateIn(answer.ca, 'the authority');
  if (publicKeyHash(authority.publicKey) !== expected.caHash || !authority.ca || !authority.verify(authority.publicKey))
    refuse('the authority is not the one that was pinned');
  const certificate = certificateIn(answer.certificate, 'the certificate');
  if (!certificate.checkIssued(authority) || !certificate.verify(authority.publicKey))
    refuse('the certificate is not signed by the hub');
  if (!certificate.checkPrivateKey(expected.key)) refuse('the certificate is for another key');
  const { subject } = certificate;
  if (subject !== `CN=${machineCommonName(expected.workload)}`) refuse(`the certificate is for ${subject}`);
  if (certificate.ca || certificate.keyUsage?.includes(CLIENT_AUTH) !== true)
    refuse('the certificate is not for a client');
  if (answer.workload.name !== expected.workload) refuse(`the answer is for ${answer.workload.name}`);
  const [from, to] = [certificate.validFromDate.getTime(), certificate.validToDate.getTime()];
  if (expected.now < from || expected.now > to) {
    const here = new Date(expected.now).toISOString();
    const period = `${new Date(from).toISOString()} to ${new Date(to).toISOString()}`;
    throw new MeshError('JOIN-CLOCK', `it is ${here} here, and the new certificate is valid from ${period}`);
  }
  return { answer, certificate };
}

function parse(text: string): CertificateAnswer {
  let found: unknown;
  try {
    found = JSON.parse(text);
  } catch {
    return refuse('it is not JSON');
  }
  const answer = (typeof found === 'object' && found !== null ? found : {}) as Partial<CertificateAnswer>;
  const { certificate, ca, workload, cluster, endpoints, hubs } = answer;
  const fine =
    [certificate, ca].every((pem) => typeof pem === 'string') &&
    typeof workload?.name === 'string' &&
    NAME.test(workload.name) &&
    typeof cluster?.name === 'string' &&
    CLUSTER_NAME.test(cluster.name) &&
    Number.isInteger(cluster.id) &&
    cluster.id >= 1 &&
    cluster.id <= 511 &&
    areUrls(endpoints) &&
    areUrls(hubs);
  return fine ? (answer as CertificateAnswer) : refuse('a field is missing or not acceptable');
}

function areUrls(list: unknown): boolean {
  return (
    Array.isArray(list) &&
    list.length > 0 &&
    list.length <= 64 &&
    list.every((url) => typeof url === 'string' && /^https:\/\/[^\s/?#@\\]+\/?$/.test(url) && URL.canParse(url))
  );
}

function certificateIn(pem: string, what: string): X509Certificate {
  if (!PEM.test(pem)) refuse(`${what} is no PEM certificate`);
  try {
    return new X509Certificate(pem);
  } catch {
    return refuse(`${what} cannot be read`);
  }
}

function refuse(detail: string): never {
  throw new MeshError('JOIN-ANSWER', detail);
}
