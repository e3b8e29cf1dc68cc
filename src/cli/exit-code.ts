/** Fixed names of the design: scripts rely on them. */
export const EXIT = {
  ok: 0,
  failure: 1,
  usage: 2,
  /** Not running or unreachable. */
  unreachable: 3,
  degraded: 4,
  notJoined: 5,
  consent: 6,
} as const;

export type ExitCode = (typeof EXIT)[keyof typeof EXIT];
