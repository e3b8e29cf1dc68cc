import type { DirectionPolicy } from '../policy/result.ts';
import type { DesiredAddresses } from './desired.ts';

/** No policy selects this machine. */
export const OPEN_POLICY: DirectionPolicy = {
  enforcing: false,
  defaultDeny: false,
  unknownClass: { id: 1, rows: [] },
  classOf: () => OPEN_POLICY.unknownClass,
  identities: () => [],
  classes: () => [OPEN_POLICY.unknownClass],
};

const noKey = (): Uint32Array => new Uint32Array(0);
const nobody = { lookup: () => undefined, forEach: () => {}, keyAt: noKey, get: () => 0, size: 0, keys: noKey };

export const NO_ADDRESSES: DesiredAddresses = { hosts4: nobody, hosts6: nobody, prefixes: () => [] };
