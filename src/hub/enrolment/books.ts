import type { TokenRecord, TokenState } from '../../api/enrolment.ts';
import type { Condition, Operation } from '../../kvstore/transaction.ts';
import type { HubStore } from '../hub-store.ts';
import { CERTIFICATES_PREFIX, MACHINES_PREFIX, parseObject, REVOKED_PREFIX, TOKENS_PREFIX } from './keys.ts';

/** A join token as the hub keeps it. Times are milliseconds since the epoch. */
export interface StoredToken {
  /** SHA-256 of the secret, hexadecimal. */
  readonly hash: string;
  readonly workload: string;
  /** Key and uid of the workload's object: the token is worth nothing without it. */
  readonly workloadKey: string;
  readonly workloadUid: string;
  readonly createdAt: number;
  readonly createdBy: string;
  readonly expiresAt: number;
  readonly withdrawnAt?: number;
  readonly usedAt?: number;
  readonly usedFrom?: string;
  /** Whose certificate it brought: SHA-256 of the public key, and the serial number. */
  readonly usedKey?: string;
  readonly serial?: string;
}

/** A certificate that was signed for a machine. */
export interface StoredCertificate {
  readonly workload: string;
  readonly workloadKey: string;
  readonly workloadUid: string;
  /** SHA-256 of the public key, base64url. */
  readonly keyHash: string;
  readonly issuedAt: number;
  readonly notAfter: number;
  /** The address that asked for it. */
  readonly from: string;
  readonly pem: string;
  /** The token that it came from, or the serial number of the certificate that it renews. */
  readonly token?: string;
  readonly renews?: string;
  readonly renewedBy?: string;
  readonly revokedAt?: number;
  readonly revokedBy?: string;
}

/** Something that was read, and the condition that it is still so. */
export interface Held<T> {
  readonly value: T;
  readonly unchanged: Condition;
}

/** Tokens and certificates in the store. @throws MeshError KVS-* */
export class Books {
  readonly #store: Pick<HubStore, 'read' | 'readPrefix' | 'transact'>;

  constructor(store: Pick<HubStore, 'read' | 'readPrefix' | 'transact'>) {
    this.#store = store;
  }

  async token(id: string): Promise<Held<StoredToken> | undefined> {
    return this.#read(TOKENS_PREFIX + id, decodeToken);
  }

  async tokens(): Promise<(StoredToken & { readonly id: string })[]> {
    const { entries } = await this.#store.readPrefix(TOKENS_PREFIX);
    return entries.flatMap(({ key, value }) => {
      const token = decodeToken(value);
      return token === undefined ? [] : [{ ...token, id: key }];
    });
  }

  async certificate(serial: string): Promise<Held<StoredCertificate> | undefined> {
    return this.#read(CERTIFICATES_PREFIX + serial, decodeCertificate);
  }

  /** Ids of the tokens for a machine. */
  async tokensOf(workload: string): Promise<string[]> {
    const { entries } = await this.#store.readPrefix(tokenIndex(workload, ''));
    return entries.map(({ key }) => key);
  }

  /** Serial numbers of the certificates of a machine. */
  async serials(workload: string): Promise<string[]> {
    const { entries } = await this.#store.readPrefix(`${MACHINES_PREFIX}${workload}/`);
    return entries.map(({ key }) => key).filter((key) => !key.includes('/'));
  }

  /** Serial number of the certificate of a machine that was signed last, of those that are good. */
  async newestGood(workload: string, now: number): Promise<string | undefined> {
    let newest: { readonly serial: string; readonly issuedAt: number } | undefined;
    for (const serial of await this.serials(workload)) {
      const found = (await this.certificate(serial))?.value;
      if (found === undefined || found.revokedAt !== undefined || found.notAfter < now) continue;
      if (found.issuedAt >= (newest?.issuedAt ?? 0)) newest = { serial, issuedAt: found.issuedAt };
    }
    return newest?.serial;
  }

  async #read<T>(key: string, decode: (value: Buffer) => T | undefined): Promise<Held<T> | undefined> {
    const found = await this.#store.read(key);
    const value = found === undefined ? undefined : decode(found.value);
    return found === undefined || value === undefined
      ? undefined
      : { value, unchanged: { key, modRevision: found.modRevision } };
  }
}

export function putToken(id: string, token: StoredToken): Operation[] {
  return [
    { put: TOKENS_PREFIX + id, value: JSON.stringify(token) },
    { put: tokenIndex(token.workload, id), value: '' },
  ];
}

export function removeToken(id: string, workload: string): Operation[] {
  return [{ remove: TOKENS_PREFIX + id }, { remove: tokenIndex(workload, id) }];
}

function tokenIndex(workload: string, id: string): string {
  return `${MACHINES_PREFIX}${workload}/token/${id}`;
}

export function putCertificate(serial: string, certificate: StoredCertificate): Operation[] {
  return [
    { put: CERTIFICATES_PREFIX + serial, value: JSON.stringify(certificate) },
    { put: `${MACHINES_PREFIX}${certificate.workload}/${serial}`, value: '' },
    ...(certificate.revokedAt === undefined ? [] : [{ put: REVOKED_PREFIX + serial, value: '' }]),
  ];
}

export function removeCertificate(serial: string, workload: string): Operation[] {
  return [
    { remove: CERTIFICATES_PREFIX + serial },
    { remove: `${MACHINES_PREFIX}${workload}/${serial}` },
    { remove: REVOKED_PREFIX + serial },
  ];
}

export function stateOf(token: StoredToken, now: number): TokenState {
  if (token.usedAt !== undefined) return 'used';
  if (token.withdrawnAt !== undefined) return 'withdrawn';
  return now < token.expiresAt ? 'open' : 'expired';
}

export function tokenRecord(id: string, token: StoredToken, now: number): TokenRecord {
  const { workload, createdAt, createdBy, expiresAt, usedAt, usedFrom } = token;
  return {
    id,
    workload,
    state: stateOf(token, now),
    createdAt,
    createdBy,
    expiresAt,
    ...(usedAt !== undefined && { usedAt }),
    ...(usedFrom !== undefined && { usedFrom }),
  };
}

function decodeToken(value: Buffer): StoredToken | undefined {
  const found = parseObject(value);
  return found !== undefined &&
    has(found, ['hash', 'workload', 'workloadKey', 'workloadUid', 'createdBy'], ['createdAt', 'expiresAt']) &&
    mayHave(found, ['usedFrom', 'usedKey', 'serial'], ['usedAt', 'withdrawnAt'])
    ? (found as unknown as StoredToken)
    : undefined;
}

export function decodeCertificate(value: Buffer): StoredCertificate | undefined {
  const found = parseObject(value);
  return found !== undefined &&
    has(found, ['workload', 'workloadKey', 'workloadUid', 'keyHash', 'from', 'pem'], ['issuedAt', 'notAfter']) &&
    mayHave(found, ['token', 'renews', 'renewedBy', 'revokedBy'], ['revokedAt'])
    ? (found as unknown as StoredCertificate)
    : undefined;
}

type Found = Readonly<Record<string, unknown>>;

function has(found: Found, texts: readonly string[], numbers: readonly string[]): boolean {
  return (
    texts.every((name) => typeof found[name] === 'string') && numbers.every((name) => Number.isFinite(found[name]))
  );
}

function mayHave(found: Found, texts: readonly string[], numbers: readonly string[]): boolean {
  const given = (name: string): boolean => found[name] !== undefined;
  return has(found, texts.filter(given), numbers.filter(given));
}
