import { userInfo } from 'node:os';
import type { AskOptions } from '../../api/ask.ts';
import { InvalidArgumentError, type SharedOptions } from '../command.ts';
import type { Terminal } from '../terminal.ts';
import { hubSocketOf } from './place.ts';

/** The hub that a command asks. */
export function hubOf(call: { readonly terminal: Terminal; readonly options: SharedOptions }): AskOptions {
  return { socket: hubSocketOf(call), whom: 'hub' };
}

/** Who types this, for the audit: a help for honest administrators, no proof. */
export function whoAsks({ env }: Terminal): string {
  const before = env.SUDO_USER;
  let name = 'unknown';
  try {
    name = userInfo().username;
  } catch {
    // There is no entry for this number.
  }
  return before === undefined || before === '' || before === name ? name : `${before} (as ${name})`;
}

/** `90s`, `30m`, `1h`, `7d`: seconds. */
export function seconds(text: string): number {
  const match = /^([1-9][0-9]{0,6})(s|m|h|d)$/.exec(text);
  if (match === null) throw new InvalidArgumentError('It must be a time such as 90s, 30m, 1h or 7d.');
  return Number(match[1]) * ({ s: 1, m: 60, h: 3600, d: 86_400 }[match[2] ?? 's'] ?? 1);
}
