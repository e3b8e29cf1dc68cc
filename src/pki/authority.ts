import type { KeyObject } from 'node:crypto';

export interface IssuedCertificate {
  readonly pem: string;
  /** 128 random bits, hexadecimal, upper case, without leading zeros: as X509Certificate has it. */
  readonly serial: string;
  /** An hour before the issue, so that a clock that is slow does not matter. */
  readonly notBefore: Date;
  readonly notAfter: Date;
}

/** Signs for machines, servers and clusters. */
export interface CertificateAuthority {
  /** PEM. */
  readonly certificate: string;
  /** SHA-256 of the public key (SubjectPublicKeyInfo, DER), base64url: what a join token carries. */
  readonly publicKeyHash: string;
  readonly notAfter: Date;
  /** For TLS servers; with `client` also for TLS clients (the peers of an etcd). Names and addresses. */
  issueServer(request: {
    readonly commonName: string;
    readonly names: readonly string[];
    readonly publicKey: KeyObject;
    readonly seconds: number;
    readonly client?: boolean;
  }): IssuedCertificate;
  /** For TLS clients: the common name is the user in the store. */
  issueClient(request: {
    readonly commonName: string;
    readonly publicKey: KeyObject;
    readonly seconds: number;
  }): IssuedCertificate;
}
