import { isDeepStrictEqual } from 'node:util';

/** How this machine finds out whether a backend answers. */
export interface CheckSettings {
  /** `tcp`: a connection is accepted. `http`: `GET path` is answered with a status from 200 to 399. */
  readonly type: 'tcp' | 'http';
  /** Empty for `tcp`. */
  readonly path: string;
  /** The port that answers for the backend; its own ports, where they are TCP, when undefined. */
  readonly port: number | undefined;
  readonly intervalMs: number;
  readonly timeoutMs: number;
  /** Checks in a row that must pass before the backend is healthy again, or fail before it is unhealthy. */
  readonly rise: number;
  readonly fall: number;
}

/** What the machine's own configuration says of services. The store has no word of it: affinity is the consumer's. */
export interface ServiceSettings {
  /** By `<namespace>/<name>`; what is not named has none. */
  readonly affinity: ReadonlyMap<string, 'none' | 'local' | 'remote'>;
  /** The cluster that counts as local; the joined one when undefined. */
  readonly local: string | undefined;
  /** Backends of a lost cluster: the last resort (`keep`), or out (`remove`). */
  readonly onClusterLoss: 'keep' | 'remove';
  /** `<namespace>/<name>` of services whose clients stay with one backend. */
  readonly sticky: ReadonlySet<string>;
  /** Weight of each backend of a cluster; 1 when not named, 0 for no new connections. */
  readonly weights: ReadonlyMap<string, number>;
  /** How backends are checked, by `<namespace>/<name>`; `none` is not checked. */
  readonly checks: ReadonlyMap<string, CheckSettings | 'none'>;
  /** For services that `checks` does not name. */
  readonly defaultCheck: CheckSettings | 'none';
  /** Chooses this machine's share of a service with more backends than fit: its name. */
  readonly machine: string;
}

/** A configuration that is read again has other objects of the same content. */
export function sameCheck(a: CheckSettings | undefined, b: CheckSettings | undefined): boolean {
  return isDeepStrictEqual(a, b);
}

export function checkOf({ checks, defaultCheck }: ServiceSettings, name: string): CheckSettings | undefined {
  const check = checks.get(name) ?? defaultCheck;
  return check === 'none' ? undefined : check;
}

export const DEFAULT_SETTINGS: ServiceSettings = {
  affinity: new Map(),
  local: undefined,
  onClusterLoss: 'keep',
  sticky: new Set(),
  weights: new Map(),
  checks: new Map(),
  defaultCheck: 'none',
  machine: '',
};
