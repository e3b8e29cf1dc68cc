import { readFileSync } from 'node:fs';

/** machine-id(5); empty where there is none. Not to be shown: what is made of it must be a hash. */
export function machineId(): string {
  try {
    return readFileSync('/etc/machine-id', 'latin1').trim();
  } catch {
    return '';
  }
}
