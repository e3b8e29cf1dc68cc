/**
 * What a machine and its hub say to each other over HTTPS, and the records that `hub workload token list` and `hub audit`
 * show. Times of the protocol are ISO 8601, times of records milliseconds since the epoch.
 */
import type { API_VERSION } from './types.ts';

export const ENROLMENT_PATHS = {
  join: '/v1/join',
  renew: '/v1/renew',
  leave: '/v1/leave',
  ca: '/v1/ca',
  install: '/install.sh',
  packages: '/packages/',
  health: '/healthz',
} as const;

/** Of the answer to `health`: the version of the hub, so that a machine can tell whether the two fit. */
export const VERSION_HEADER = 'x-mesh-agent-version';

/** The common name of a machine's certificate, and its user in the store. */
export function machineCommonName(workload: string): string {
  return `machine:${workload}`;
}

/** `POST /v1/join` */
export interface JoinRequest {
  /** The whole join token. */
  readonly token: string;
  /** PKCS#10 in PEM; its common name is `machine:<workload>`. */
  readonly request: string;
}

/** `POST /v1/renew`, with the running certificate. */
export interface RenewRequest {
  readonly request: string;
}

/** The answer to both. */
export interface CertificateAnswer {
  /** PEM: for the key of the request, `machine:<workload>`, for TLS clients. */
  readonly certificate: string;
  /** PEM: the hub's certificate authority. */
  readonly ca: string;
  readonly notAfter: string;
  readonly workload: { readonly name: string };
  readonly cluster: { readonly name: string; readonly id: number };
  /** URLs of the store, which shows a certificate of the same authority. */
  readonly endpoints: readonly string[];
  /** URLs of the hubs, for renewals. */
  readonly hubs: readonly string[];
}

/** A refusal; the status is 4xx or 5xx. */
export interface EnrolmentRefusal {
  readonly code: string;
  readonly message: string;
}

export type TokenState = 'open' | 'used' | 'expired' | 'withdrawn';

/** One line of `hub workload token list`; there is no secret in it. */
export interface TokenRecord {
  readonly id: string;
  readonly workload: string;
  readonly state: TokenState;
  readonly createdAt: number;
  readonly createdBy: string;
  readonly expiresAt: number;
  readonly usedAt?: number;
  /** The address of the machine that used it. */
  readonly usedFrom?: string;
}

/** The answer to `hub workload token NAME`: the only moment at which the token is known. */
export interface NewTokenRecord extends Omit<TokenRecord, 'usedAt' | 'usedFrom'> {
  readonly apiVersion: typeof API_VERSION;
  readonly kind: 'JoinToken';
  readonly token: string;
  readonly hubs: readonly string[];
  /** What to type on the machine. */
  readonly command: string;
}

export type AuditEvent =
  | 'token-created'
  | 'token-withdrawn'
  | 'joined'
  | 'join-repeated'
  | 'join-refused'
  | 'renew-refused'
  | 'left'
  | 'revoked'
  | RegistrationAuditEvent;

/** What became of the registrations of machines; kept apart from the rest, so that these cannot push those out. */
export type RegistrationAuditEvent = 'registered' | 'registration-refused' | 'registration-ended' | 'withdrawn';

/** One line of `hub audit`. */
export interface AuditRecord {
  readonly at: number;
  readonly event: AuditEvent;
  /** Of whom: the name of a workload, as far as it is known. */
  readonly workload?: string;
  /** Who did it: an administrator, or the machine itself. */
  readonly by?: string;
  /** The address that it came from. */
  readonly from?: string;
  /** Why it was refused, or other facts. */
  readonly reason?: string;
  /** A code of the table of errors. */
  readonly code?: string;
  readonly token?: string;
  /** Serial number of the certificate; of a registration the newest good one of the machine. */
  readonly serial?: string;
  /** The lease of a registration, hexadecimal: it ends with the machine's connection. */
  readonly session?: string;
  /** So many more refusals, or events of this machine, were not written since the record before, because there were too many. */
  readonly suppressed?: number;
}
