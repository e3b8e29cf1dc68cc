import { createPublicKey, type KeyObject, sign, verify } from 'node:crypto';
import { CertificationRequest, CertificationRequestInfo } from '@peculiar/asn1-csr';
import { AsnConvert } from '@peculiar/asn1-schema';
import { MeshError, messageOf } from '../core/errors.ts';
import { arrayBuffer, commonNameOf, publicKeyInfo, signatureAlgorithm } from './asn1.ts';
import { DER, DerReader } from './der.ts';
import { isP256 } from './keys.ts';
import { fromPem, toPem } from './pem.ts';

/** A certificate signing request whose signature was checked. */
export interface VerifiedRequest {
  readonly commonName: string;
  /** EC P-256. */
  readonly publicKey: KeyObject;
}

/** OIDs as they are encoded. */
const COMMON_NAME = Buffer.from([0x55, 0x04, 0x03]);
const ECDSA_SHA256 = Buffer.from([0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]);
const MAX_BYTES = 16 << 10;

/** PKCS#10 in PEM: this key wants a certificate for this common name. */
export function makeRequest(request: { readonly commonName: string; readonly key: KeyObject }): string {
  const info = new CertificationRequestInfo({
    subject: commonNameOf(request.commonName),
    subjectPKInfo: publicKeyInfo(request.key),
  });
  const signed = new CertificationRequest({
    certificationRequestInfo: info,
    signatureAlgorithm: signatureAlgorithm(),
    signature: arrayBuffer(sign('sha256', Buffer.from(AsnConvert.serialize(info)), request.key)),
  });
  return toPem('CERTIFICATE REQUEST', Buffer.from(AsnConvert.serialize(signed)));
}

/**
 * Reads a request from a stranger and checks that who made it has the key. What OpenSSL verifies is the very bytes of the
 * CertificationRequestInfo, with the key that stands in them; the frame around them is read strictly, so that there is
 * one reading only. Only an EC P-256 key, ECDSA with SHA-256 and a subject of one common name are taken. Extensions that
 * a request asks for are ignored: what a certificate says is decided by whoever signs it.
 * @throws MeshError PKI-REQUEST
 */
export function readRequest(pem: string): VerifiedRequest {
  try {
    const [data] = fromPem(pem, { label: 'CERTIFICATE REQUEST', maxBytes: MAX_BYTES, exactly: 1 });
    const { info, signature } = readFrame(data as Buffer);
    const request = readInfo(info.content);
    const key = { key: request.publicKey, dsaEncoding: 'der' } as const;
    if (!verify('sha256', info.whole, key, signature)) throw new RangeError('the signature is wrong');
    return request;
  } catch (cause) {
    throw new MeshError('PKI-REQUEST', messageOf(cause), { cause });
  }
}

function readFrame(data: Buffer): { info: { whole: Buffer; content: Buffer }; signature: Buffer } {
  const outer = new DerReader(data);
  const frame = outer.enter(DER.sequence);
  outer.end();
  const info = frame.element(DER.sequence);
  const algorithm = frame.enter(DER.sequence);
  if (!algorithm.element(DER.oid).content.equals(ECDSA_SHA256))
    throw new RangeError('the signature is not ECDSA with SHA-256');
  algorithm.end();
  const bits = frame.element(DER.bitString).content;
  frame.end();
  if (bits[0] !== 0) throw new RangeError('the signature is not a whole number of bytes');
  return { info, signature: bits.subarray(1) };
}

function readInfo(content: Buffer): VerifiedRequest {
  const info = new DerReader(content);
  const version = info.element(DER.integer).content;
  if (version.length !== 1 || version[0] !== 0) throw new RangeError('the version of the request is unknown');
  const commonName = readName(info.enter(DER.sequence));
  const publicKey = createPublicKey({ key: info.element(DER.sequence).whole, format: 'der', type: 'spki' });
  if (!isP256(publicKey)) throw new RangeError('the key is not an EC P-256 key');
  // Some leave the attributes out when there are none.
  if (!info.empty) info.element(DER.context0);
  info.end();
  return { commonName, publicKey };
}

function readName(name: DerReader): string {
  const set = name.enter(DER.set);
  name.end();
  const attribute = set.enter(DER.sequence);
  set.end();
  if (!attribute.element(DER.oid).content.equals(COMMON_NAME))
    throw new RangeError('the subject is more than a common name');
  const { content } = attribute.element(attribute.tag === DER.printable ? DER.printable : DER.utf8);
  attribute.end();
  return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(content);
}
