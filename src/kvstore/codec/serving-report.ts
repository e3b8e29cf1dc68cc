import type { Family } from '../../core/ip.ts';

/** What a machine found when it looked at one of its own ports, on its address of one family. */
export interface CheckReport {
  readonly healthy: boolean;
  /** Milliseconds since the epoch. */
  readonly since: number;
  /** Why it is not healthy; empty when it is. */
  readonly reason: string;
}

/** By `<namespace>/<name>` of the service, then by family. */
export type CheckReports = ReadonlyMap<string, ReadonlyMap<Family, CheckReport>>;

/** What a machine tells its hub of what it serves, in annotations of its registration. */
export interface ServingReport {
  /** Since when it wants no new connections; undefined while it takes them. */
  readonly drained: number | undefined;
  readonly checks: CheckReports;
  /** How often it renews the lease of its registration, seconds; undefined when it promises nothing. */
  readonly beat: number | undefined;
}

export const NO_REPORT: ServingReport = { drained: undefined, checks: new Map(), beat: undefined };

const DRAINED = 'mesh-agent.io/drained';
const CHECKS = 'mesh-agent.io/checks';
const BEAT = 'mesh-agent.io/beat';
/** A machine that serves more has the first ones checked. */
export const MAX_REPORTED = 256;
const MAX_REASON = 160;
const MAX_BEAT = 3600;
const MAX_TEXT = 32_768;
const SHORTER = [
  [MAX_REPORTED, MAX_REASON],
  [MAX_REPORTED, 40],
  [MAX_REPORTED, 10],
  [MAX_REPORTED / 2, 10],
] as const;

export function reportAnnotations({ drained, checks, beat }: ServingReport): (readonly [string, string])[] {
  return [
    ...(drained === undefined ? [] : [[DRAINED, String(drained)] as const]),
    ...(checks.size === 0 ? [] : [[CHECKS, checksText(checks)] as const]),
    ...(beat === undefined ? [] : [[BEAT, String(beat)] as const]),
  ];
}

/** Never throws: what makes no sense is as if it were not there. `now` bounds the times that a machine may tell. */
export function readReport(annotations: ReadonlyMap<string, string> | null | undefined, now: number): ServingReport {
  const beat = wholeNumber(annotations?.get(BEAT), MAX_BEAT);
  return {
    drained: wholeNumber(annotations?.get(DRAINED), now),
    checks: checksFromJson(parsed(annotations?.get(CHECKS)), now),
    beat: beat === 0 ? undefined : beat,
  };
}

/** A registration that is too long would not be read at all: first reasons are cut short, then services are left out. */
function checksText(checks: CheckReports): string {
  for (const [count, reason] of SHORTER) {
    const text = JSON.stringify(checksToJson(checks, { count, reason }));
    if (text.length <= MAX_TEXT) return text;
  }
  return '{}';
}

/** `{"production/api": {"4": [1764000000000], "6": [1764000000000, "tcp/8080: connection refused"]}}` */
export function checksToJson(
  checks: CheckReports,
  limits: { readonly count: number; readonly reason: number } = { count: MAX_REPORTED, reason: MAX_REASON },
): object {
  return Object.fromEntries(
    [...checks]
      .slice(0, limits.count)
      .map(([service, families]) => [
        service,
        Object.fromEntries(
          [...families].map(([family, { healthy, since, reason }]) => [
            family,
            healthy ? [since] : [since, cut(reason).slice(0, limits.reason) || 'it failed'],
          ]),
        ),
      ]),
  );
}

export function checksFromJson(content: unknown, now: number): CheckReports {
  const checks = new Map<string, ReadonlyMap<Family, CheckReport>>();
  for (const [service, families] of entriesOf(content).slice(0, MAX_REPORTED)) {
    const found = new Map<Family, CheckReport>();
    for (const family of [4, 6] as const) {
      const report = reportOf(entriesOf(families).find(([key]) => key === String(family))?.[1], now);
      if (report !== undefined) found.set(family, report);
    }
    if (found.size > 0) checks.set(service, found);
  }
  return checks;
}

function reportOf(item: unknown, now: number): CheckReport | undefined {
  if (!Array.isArray(item)) return undefined;
  const [since, reason]: unknown[] = item;
  if (typeof since !== 'number' || !Number.isSafeInteger(since) || since < 0) return undefined;
  const healthy = reason === undefined;
  if (!healthy && typeof reason !== 'string') return undefined;
  return { healthy, since: Math.min(since, now), reason: typeof reason === 'string' ? cut(reason) : '' };
}

function entriesOf(content: unknown): [string, unknown][] {
  return typeof content === 'object' && content !== null && !Array.isArray(content) ? Object.entries(content) : [];
}

/** What a stranger says is shown to people. */
function cut(reason: string): string {
  return reason.replace(/[^\x20-\x7e]/g, '?').slice(0, MAX_REASON);
}

function parsed(text: string | undefined): unknown {
  try {
    return text === undefined ? undefined : JSON.parse(text);
  } catch {
    return undefined;
  }
}

function wholeNumber(text: string | undefined, most: number): number | undefined {
  return text !== undefined && /^[0-9]{1,15}$/.test(text) ? Math.min(Number(text), most) : undefined;
}
