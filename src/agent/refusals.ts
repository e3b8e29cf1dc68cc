import type { Log } from '../observe/log.ts';

/** Lines in a minute. */
const MAX_LINES = 20;
const MINUTE_MS = 60_000;

/** Refused values in the log: a few a minute one by one, since a store may refuse to stop; `status` has them all. */
export function refusalLog(log: Log, now: () => number = () => performance.now()): (entry: object) => void {
  let began = Number.NEGATIVE_INFINITY;
  let lines = 0;
  return (entry) => {
    if (now() - began >= MINUTE_MS) {
      began = now();
      lines = 0;
    }
    lines++;
    if (lines <= MAX_LINES) log.warn('a value of the store was refused', { ...entry });
    else if (lines === MAX_LINES + 1) log.warn('more values of the store are refused: `mesh-agent status` shows them');
  };
}
