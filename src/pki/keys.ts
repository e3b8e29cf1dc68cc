import { createHash, createPublicKey, generateKeyPairSync, type KeyObject, X509Certificate } from 'node:crypto';

/** A new private key: EC P-256, made by OpenSSL. */
export function generateKey(): KeyObject {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
}

/** PKCS#8 in PEM, not encrypted. */
export function privateKeyPem(key: KeyObject): string {
  return key.export({ type: 'pkcs8', format: 'pem' }).toString();
}

/** The DER of SubjectPublicKeyInfo of a private or public key. */
export function publicKeyDer(key: KeyObject): Buffer {
  const publicKey = key.type === 'private' ? createPublicKey(key) : key;
  return publicKey.export({ type: 'spki', format: 'der' });
}

/**
 * SHA-256 of the public key (SubjectPublicKeyInfo, DER) of a certificate in PEM or of a key, base64url without padding: 43
 * characters. It names a CA as long as its key lives, however often its certificate is renewed.
 */
export function publicKeyHash(of: string | Buffer | KeyObject): string {
  const key = typeof of === 'string' || Buffer.isBuffer(of) ? new X509Certificate(of).publicKey : of;
  return createHash('sha256').update(publicKeyDer(key)).digest('base64url');
}

/** Whether it is a key of the one kind that we use. */
export function isP256(key: KeyObject): boolean {
  return key.asymmetricKeyType === 'ec' && key.asymmetricKeyDetails?.namedCurve === 'prime256v1';
}
