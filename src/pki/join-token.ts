import { randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { MeshError } from '../core/errors.ts';

/**
 * What lets one machine in once. It is a text of one line, `mat1_` and base64url of
 *
 *   id (10) · secret (24) · hash of the CA's public key (32) · length (1), workload · count (1), {length (1), URL} · CRC-32 (4)
 *
 * so that a mistyped or cut token is known for that before anybody is asked. The hub keeps a hash of the secret only.
 */
export interface JoinToken {
  /** 20 hexadecimal digits: names the token in lists and logs; no secret. */
  readonly id: string;
  /** 192 random bits. */
  readonly secret: Buffer;
  /** SHA-256 of the public key of the hub's CA, base64url: `publicKeyHash`. */
  readonly caHash: string;
  /** The one workload that it is for. */
  readonly workload: string;
  /** Where the hub is asked, `https://host:port`, in this order; at least one. */
  readonly hubs: readonly string[];
}

const MARK = 'mat1_';
const ID_BYTES = 10;
const SECRET_BYTES = 24;
const HASH_BYTES = 32;
const MAX_TEXT = 4096;
const MAX_HUBS = 16;

/** A new token with a fresh id and secret. @throws RangeError for names and URLs that do not fit */
export function makeJoinToken(facts: Pick<JoinToken, 'caHash' | 'workload' | 'hubs'>): JoinToken {
  const token = { ...facts, id: randomBytes(ID_BYTES).toString('hex'), secret: randomBytes(SECRET_BYTES) };
  if (facts.hubs.length === 0 || facts.hubs.length > MAX_HUBS) throw new RangeError('1 to 16 URLs of the hub');
  for (const text of [facts.workload, ...facts.hubs])
    if (text === '' || Buffer.byteLength(text) > 255) throw new RangeError(`1 to 255 bytes are expected: ${text}`);
  return token;
}

/** As a person copies it. */
export function formatJoinToken(token: JoinToken): string {
  const parts = [
    Buffer.from(token.id, 'hex'),
    token.secret,
    Buffer.from(token.caHash, 'base64url'),
    counted(token.workload),
    Buffer.from([token.hubs.length]),
    ...token.hubs.map(counted),
  ];
  const body = Buffer.concat(parts);
  return `${MARK}${Buffer.concat([body, checksum(body)]).toString('base64url')}`;
}

/** Blanks around it do not matter. The token is not quoted in errors. @throws MeshError JOIN-TOKEN */
export function parseJoinToken(text: string): JoinToken {
  const trimmed = text.trim();
  const refuse = (detail: string): never => {
    throw new MeshError('JOIN-TOKEN', detail);
  };
  if (trimmed === '') refuse('it is empty');
  if (!trimmed.startsWith(MARK)) refuse(`it does not begin with ${MARK}`);
  const encoded = trimmed.slice(MARK.length);
  if (trimmed.length > MAX_TEXT || !/^[A-Za-z0-9_-]*$/.test(encoded)) refuse('it has characters that no token has');
  const whole = Buffer.from(encoded, 'base64url');
  // The last character may have bits that decode to nothing: there is one text for each token.
  if (whole.toString('base64url') !== encoded || whole.length < 4) refuse('its checksum is wrong');
  const body = whole.subarray(0, -4);
  if (!checksum(body).equals(whole.subarray(-4))) refuse('its checksum is wrong: it is mistyped or cut');
  return readBody(body) ?? refuse('its content is not understood: it may be of a newer version');
}

function readBody(body: Buffer): JoinToken | undefined {
  let at = 0;
  const take = (length: number): Buffer => {
    const part = body.subarray(at, at + length);
    at += length;
    return part;
  };
  const takeText = (): string => take(take(1)[0] ?? 0).toString('utf8');
  const id = take(ID_BYTES).toString('hex');
  const secret = Buffer.from(take(SECRET_BYTES));
  const caHash = take(HASH_BYTES).toString('base64url');
  const workload = takeText();
  const hubs = Array.from({ length: Math.min(take(1)[0] ?? 0, MAX_HUBS) }, takeText);
  if (at !== body.length || workload === '' || hubs.length === 0 || !hubs.every(isHubUrl)) return undefined;
  return { id, secret, caHash, workload, hubs };
}

/** `https://host` or `https://host:port` and nothing more. */
export function isHubUrl(text: string): boolean {
  if (!/^https:\/\/[^\s/?#@\\]+\/?$/.test(text)) return false;
  return URL.canParse(text);
}

function counted(text: string): Buffer {
  const data = Buffer.from(text);
  return Buffer.concat([Buffer.from([data.length]), data]);
}

function checksum(data: Buffer): Buffer {
  const sum = Buffer.alloc(4);
  sum.writeUInt32BE(crc32(data));
  return sum;
}
