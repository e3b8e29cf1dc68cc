import { createHash, createPrivateKey, type KeyObject, sign, X509Certificate } from 'node:crypto';
import { AsnConvert, OctetString } from '@peculiar/asn1-schema';
import {
  AuthorityKeyIdentifier,
  BasicConstraints,
  Certificate,
  ExtendedKeyUsage,
  type Extension,
  Extensions,
  id_ce_authorityKeyIdentifier,
  id_ce_basicConstraints,
  id_ce_extKeyUsage,
  id_ce_keyUsage,
  id_ce_subjectAltName,
  id_ce_subjectKeyIdentifier,
  id_kp_clientAuth,
  id_kp_serverAuth,
  KeyUsage,
  KeyUsageFlags,
  SubjectKeyIdentifier,
  TBSCertificate,
  Validity,
} from '@peculiar/asn1-x509';
import { MeshError, messageOf } from '../core/errors.ts';
import {
  alternativeNames,
  arrayBuffer,
  commonNameOf,
  extension,
  publicKeyInfo,
  serialNumber,
  signatureAlgorithm,
} from './asn1.ts';
import { generateKey, isP256, privateKeyPem, publicKeyHash } from './keys.ts';
import { toPem } from './pem.ts';

export interface IssuedCertificate {
  readonly pem: string;
  /** 128 bits, random but for the first two, hexadecimal, upper case: as X509Certificate has it. */
  readonly serial: string;
  /** An hour before the issue, so that a clock that is slow does not matter. */
  readonly notBefore: Date;
  readonly notAfter: Date;
}

/**
 * Signs for machines, servers and clusters. No certificate outlives that of the authority. Whoever asks has checked that
 * the key belongs to the name: `readRequest`.
 * @throws MeshError PKI-NAME, PKI-CA
 */
export interface CertificateAuthority {
  /** PEM. */
  readonly certificate: string;
  /** SHA-256 of the public key (SubjectPublicKeyInfo, DER), base64url: what a join token carries. */
  readonly publicKeyHash: string;
  readonly notAfter: Date;
  /** For TLS servers; with `client` also for TLS clients (the peers of an etcd). Names and addresses. */
  issueServer(request: ServerRequest): IssuedCertificate;
  /** For TLS clients: the common name is the user in the store. */
  issueClient(request: ClientRequest): IssuedCertificate;
}

export interface ClientRequest {
  /** At most 64 characters (RFC 5280, ub-common-name). */
  readonly commonName: string;
  /** EC P-256. */
  readonly publicKey: KeyObject;
  /** The life of the certificate from now on. */
  readonly seconds: number;
}

export interface ServerRequest extends ClientRequest {
  readonly names: readonly string[];
  readonly client?: boolean;
}

export interface AuthorityPems {
  readonly certificate: string;
  readonly key: string;
}

const EARLIER_MS = 3_600_000;
const YEAR_SECONDS = 365 * 86_400;
const AUTHORITY_YEARS = 10;
const MAX_COMMON_NAME = 64;

/** A new authority: a key, and a certificate for it that it signed itself. It may sign certificates, no authorities. */
export function createAuthority(commonName: string, seconds = AUTHORITY_YEARS * YEAR_SECONDS): AuthorityPems {
  const key = generateKey();
  const { pem } = build({
    commonName,
    publicKey: key,
    issuer: { key, commonName },
    ...period(seconds),
    extensions: [
      extension(id_ce_basicConstraints, true, new BasicConstraints({ cA: true, pathLenConstraint: 0 })),
      extension(id_ce_keyUsage, true, new KeyUsage(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign)),
    ],
  });
  return { certificate: pem, key: privateKeyPem(key) };
}

/** @throws MeshError PKI-CA when key and certificate do not belong together, are not of an authority, or are not valid now */
export function openAuthority({ certificate: pem, key: keyPem }: AuthorityPems): CertificateAuthority {
  const { certificate, key, commonName } = readAuthority(pem, keyPem);
  const notAfter = certificate.validToDate;
  const issue = (request: ClientRequest, extensions: readonly Extension[]): IssuedCertificate => {
    checkRequest(request, notAfter);
    const extended = [
      extension(id_ce_basicConstraints, true, new BasicConstraints({ cA: false })),
      extension(id_ce_keyUsage, true, new KeyUsage(KeyUsageFlags.digitalSignature)),
      ...extensions,
    ];
    const { commonName: name, publicKey, seconds } = request;
    const times = period(seconds, notAfter);
    return build({ commonName: name, publicKey, issuer: { key, commonName }, ...times, extensions: extended });
  };
  return {
    certificate: pem,
    publicKeyHash: publicKeyHash(certificate.publicKey),
    notAfter,
    issueServer(request) {
      const uses = request.client === true ? [id_kp_serverAuth, id_kp_clientAuth] : [id_kp_serverAuth];
      return issue(request, [
        extension(id_ce_extKeyUsage, false, new ExtendedKeyUsage(uses)),
        extension(id_ce_subjectAltName, false, alternativeNames(request.names)),
      ]);
    },
    issueClient: (request) =>
      issue(request, [extension(id_ce_extKeyUsage, false, new ExtendedKeyUsage([id_kp_clientAuth]))]),
  };
}

function readAuthority(
  pem: string,
  keyPem: string,
): { certificate: X509Certificate; key: KeyObject; commonName: string } {
  const refuse = (detail: string, cause?: unknown): never => {
    throw new MeshError('PKI-CA', detail, { cause });
  };
  let certificate: X509Certificate;
  let key: KeyObject;
  try {
    certificate = new X509Certificate(pem);
    key = createPrivateKey(keyPem);
  } catch (cause) {
    return refuse(messageOf(cause), cause);
  }
  if (!certificate.checkPrivateKey(key)) refuse('the key does not belong to the certificate');
  if (!certificate.ca || !isP256(key)) refuse('it is no certificate authority with an EC P-256 key');
  const now = Date.now();
  if (now < certificate.validFromDate.getTime() || now > certificate.validToDate.getTime())
    refuse(`it is valid from ${certificate.validFromDate.toISOString()} to ${certificate.validToDate.toISOString()}`);
  const commonName = /^CN=([^\n]+)$/.exec(certificate.subject)?.[1];
  if (commonName === undefined) return refuse('its subject is more than a common name');
  return { certificate, key, commonName };
}

function checkRequest({ commonName, publicKey, seconds }: ClientRequest, notAfter: Date): void {
  if (commonName === '' || commonName.length > MAX_COMMON_NAME || /\p{C}/u.test(commonName))
    throw new MeshError('PKI-NAME', JSON.stringify(commonName.slice(0, 200)));
  if (!isP256(publicKey)) throw new MeshError('PKI-REQUEST', 'the key is not an EC P-256 key');
  if (!(seconds > 0)) throw new RangeError(`a certificate for ${seconds} seconds`);
  if (Date.now() > notAfter.getTime())
    throw new MeshError('PKI-CA', `the certificate of the authority expired on ${notAfter.toISOString()}`);
}

function period(seconds: number, latest?: Date): { notBefore: Date; notAfter: Date } {
  // Certificates know whole seconds.
  const now = Math.floor(Date.now() / 1000) * 1000;
  const end = Math.min(now + seconds * 1000, latest?.getTime() ?? Number.POSITIVE_INFINITY);
  return { notBefore: new Date(now - EARLIER_MS), notAfter: new Date(end) };
}

function build(facts: {
  readonly commonName: string;
  readonly publicKey: KeyObject;
  readonly issuer: { readonly key: KeyObject; readonly commonName: string };
  readonly notBefore: Date;
  readonly notAfter: Date;
  readonly extensions: readonly Extension[];
}): IssuedCertificate {
  const { issuer, notBefore, notAfter } = facts;
  const serial = serialNumber();
  const subjectKey = publicKeyInfo(facts.publicKey);
  const identifiers = [
    extension(id_ce_subjectKeyIdentifier, false, new SubjectKeyIdentifier(keyIdentifier(subjectKey.subjectPublicKey))),
    extension(
      id_ce_authorityKeyIdentifier,
      false,
      new AuthorityKeyIdentifier({
        keyIdentifier: new SubjectKeyIdentifier(keyIdentifier(publicKeyInfo(issuer.key).subjectPublicKey)),
      }),
    ),
  ];
  const content = new TBSCertificate({
    version: 2,
    serialNumber: arrayBuffer(serial),
    signature: signatureAlgorithm(),
    issuer: commonNameOf(issuer.commonName),
    validity: new Validity({ notBefore, notAfter }),
    subject: commonNameOf(facts.commonName),
    subjectPublicKeyInfo: subjectKey,
    extensions: new Extensions([...facts.extensions, ...identifiers]),
  });
  const signature = sign('sha256', Buffer.from(AsnConvert.serialize(content)), issuer.key);
  const whole = new Certificate({
    tbsCertificate: content,
    signatureAlgorithm: signatureAlgorithm(),
    signatureValue: arrayBuffer(signature),
  });
  const pem = toPem('CERTIFICATE', Buffer.from(AsnConvert.serialize(whole)));
  return { pem, serial: serial.toString('hex').toUpperCase(), notBefore, notAfter };
}

/** 160 bits of SHA-256 of the public key (RFC 7093, method 1). */
function keyIdentifier(publicKey: ArrayBuffer): OctetString {
  return new OctetString(createHash('sha256').update(Buffer.from(publicKey)).digest().subarray(0, 20));
}
