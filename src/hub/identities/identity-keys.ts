/** Cilium's kvstore allocator (kvstore specification 2.4.2, 2.4.3, 3.6). */
export const IDENTITIES_PREFIX = 'cilium/state/identities/v1/';
/** Ours: numbers that were in use lately, each under a lease that ends with its quarantine. */
export const QUARANTINE_PREFIX = 'mesh-agent/v1/quarantine/';

export const masterKey = (id: number): string => `${IDENTITIES_PREFIX}id/${id}`;
export const usersPrefix = (labels: string): string => `${IDENTITIES_PREFIX}value/${labels}/`;
export const userKey = (labels: string, suffix: string): string => usersPrefix(labels) + suffix;
export const lockKey = (labels: string, lease: string): string => `${IDENTITIES_PREFIX}locks/${labels}/${lease}`;
export const quarantineKey = (id: number): string => QUARANTINE_PREFIX + id;

export type IdentityKey =
  | { readonly kind: 'master'; readonly id: number }
  | { readonly kind: 'user'; readonly labels: string; readonly suffix: string }
  | { readonly kind: 'lock'; readonly path: string; readonly holder: string };

/** A key relative to the prefix. Labels hold slashes, so the last one counts. Undefined for what is none of the three. */
export function readIdentityKey(key: string): IdentityKey | undefined {
  const [kind, rest] = cut(key, key.indexOf('/'));
  if (kind === 'id') return /^[1-9][0-9]{0,9}$/.test(rest) ? { kind: 'master', id: Number(rest) } : undefined;
  const [path, last] = cut(rest, rest.lastIndexOf('/'));
  if (path === '' || last === '') return undefined;
  if (kind === 'value') return { kind: 'user', labels: path, suffix: last };
  return kind === 'locks' ? { kind: 'lock', path, holder: last } : undefined;
}

function cut(text: string, at: number): [string, string] {
  return at < 0 ? ['', ''] : [text.slice(0, at), text.slice(at + 1)];
}
