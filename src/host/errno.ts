import { getSystemErrorMap } from 'node:util';

/** Name and meaning of a positive errno number. */
export function describeErrno(errno: number): readonly [name: string, text: string] {
  return getSystemErrorMap().get(-errno) ?? [`errno ${errno}`, 'unknown error'];
}
