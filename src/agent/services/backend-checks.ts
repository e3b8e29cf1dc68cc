import { fingerprint } from '../../core/fingerprint.ts';
import type { PortResult } from '../../host/port-check.ts';
import type { CheckPlan, CheckTarget, PlaceKey } from '../../service/result.ts';
import { type CheckSettings, sameCheck } from '../../service/settings.ts';
import { CheckWheel, nextTurn, TICK_MS } from './check-wheel.ts';

/** Looks at a backend once. Ends with the signal, and by itself when its time is over; never rejects. */
export type Probe = (target: CheckTarget, check: CheckSettings, signal: AbortSignal) => Promise<PortResult>;

export interface BackendChecksOptions {
  /** Two machines do not ask the same backend at the same moment: its name. */
  readonly machine: string;
  readonly probe: Probe;
  /** A backend became unhealthy, or is so for another reason; undefined: it is healthy again. */
  readonly onHealth: (pool: string, place: PlaceKey, failure: string | undefined) => void;
}

interface Watched {
  readonly pool: string;
  readonly target: CheckTarget;
  readonly check: CheckSettings;
  readonly phase: number;
  /** Ends the probe under way, and says that no more are wanted. */
  readonly end: AbortController;
  /** In a row. */
  passes: number;
  failures: number;
  everPassed: boolean;
  failure: string | undefined;
}

interface Pool {
  readonly plan: CheckPlan;
  readonly watched: Map<PlaceKey, Watched>;
}

/** Probes that wait for an answer at the same time. */
export const MAX_OPEN = 256;
/** Probes that begin in one tick: a thousand a second. */
export const MAX_PER_TICK = 50;
/** Beyond so many backends the others count as healthy. */
export const MAX_CHECKED = 20_000;
/** A new backend is asked soon, but not before its rules and routes are in the kernel. */
const FIRST_MS = 300;
const FIRST_SPREAD_MS = 1000;

/**
 * Checks backends again and again, each at its own moment of the interval, so that thousands are spread evenly. When more are
 * due than may begin, they begin in the order in which they were due, and intervals grow for all alike. A backend counts
 * as healthy until a check says otherwise: at once when it never passed one, else after `fall` of them.
 *
 *   wheel ──▶ due ──▶ open probes ──▶ thresholds ──▶ onHealth
 */
export class BackendChecks {
  readonly #options: BackendChecksOptions;
  readonly #pools = new Map<string, Pool>();
  /** Services of which not all backends are checked, for lack of room. */
  readonly #short = new Set<string>();
  readonly #wheel = new CheckWheel<Watched>(performance.now());
  #due: Watched[] = [];
  #open = 0;
  #checked = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: BackendChecksOptions) {
    this.#options = options;
  }

  /** Backends that are checked, those that are too many, and those that are due and have not begun for lack of room. */
  get status(): { readonly checked: number; readonly unchecked: number; readonly waiting: number } {
    let wanted = 0;
    for (const { plan } of this.#pools.values()) wanted += plan.targets.size;
    return { checked: this.#checked, unchecked: wanted - this.#checked, waiting: this.#due.length };
  }

  /** What is checked for a service from now on. A backend that was checked in the same way keeps what it has shown. */
  set(name: string, plan: CheckPlan | undefined): void {
    const before = this.#pools.get(name);
    const watched = new Map<PlaceKey, Watched>();
    for (const [place, known] of before?.watched ?? []) {
      const target = plan?.targets.get(place);
      if (target?.port === known.target.port && sameCheck(plan?.check, known.check)) watched.set(place, known);
      else this.#forget(known);
    }
    if (plan === undefined) this.#pools.delete(name);
    else this.#pools.set(name, { plan, watched });
    this.#fill(name);
    for (const each of this.#short) {
      if (this.#checked >= MAX_CHECKED) break;
      this.#fill(each);
    }
    this.#turn();
  }

  close(): void {
    for (const { watched } of this.#pools.values()) for (const each of watched.values()) this.#forget(each);
    this.#pools.clear();
    this.#short.clear();
    this.#turn();
  }

  #fill(name: string): void {
    this.#short.delete(name);
    const { plan, watched } = this.#pools.get(name) ?? {};
    if (plan === undefined || watched === undefined) return;
    for (const [place, target] of plan.targets) {
      if (watched.has(place)) continue;
      if (this.#checked >= MAX_CHECKED) {
        this.#short.add(name);
        return;
      }
      watched.set(place, this.#begin(name, target, plan.check));
    }
  }

  #begin(pool: string, target: CheckTarget, check: CheckSettings): Watched {
    const hash = fingerprint(`${this.#options.machine}\0${pool}\0${target.place}`);
    const phase = hash % check.intervalMs;
    const end = new AbortController();
    const watched = { pool, target, check, phase, end, passes: 0, failures: 0, everPassed: false, failure: undefined };
    this.#checked++;
    this.#wheel.add(watched, performance.now() + FIRST_MS + (hash % FIRST_SPREAD_MS));
    return watched;
  }

  #forget(watched: Watched): void {
    this.#checked--;
    watched.end.abort();
  }

  /** Nothing to check costs nothing. */
  #turn(): void {
    if (this.#checked === 0) {
      clearInterval(this.#timer);
      this.#timer = undefined;
      this.#due = [];
    } else this.#timer ??= setInterval(() => this.#tick(), TICK_MS).unref();
  }

  #tick(): void {
    this.#due.push(...this.#wheel.take(performance.now()));
    let at = 0;
    for (let begun = 0; at < this.#due.length && begun < MAX_PER_TICK && this.#open < MAX_OPEN; at++) {
      const watched = this.#due[at];
      if (watched === undefined || watched.end.signal.aborted) continue;
      begun++;
      void this.#probe(watched);
    }
    if (at > 0) this.#due = this.#due.slice(at);
  }

  async #probe(watched: Watched): Promise<void> {
    const { target, check, end } = watched;
    this.#open++;
    const result = await this.#options.probe(target, check, end.signal);
    this.#open--;
    if (end.signal.aborted) return;
    this.#wheel.add(watched, nextTurn(performance.now(), { phase: watched.phase, intervalMs: check.intervalMs }));
    this.#judge(watched, result);
  }

  #judge(watched: Watched, result: PortResult): void {
    const { check, failure } = watched;
    const passed = result === 'answers';
    if (!passed && 'untried' in result) return;
    watched.passes = passed ? watched.passes + 1 : 0;
    watched.failures = passed ? 0 : watched.failures + 1;
    watched.everPassed ||= passed;
    if (passed && failure !== undefined && watched.passes >= check.rise) watched.failure = undefined;
    if (!passed && (failure !== undefined || watched.failures >= (watched.everPassed ? check.fall : 1)))
      watched.failure = result.failed;
    if (watched.failure !== failure) this.#options.onHealth(watched.pool, watched.target.place, watched.failure);
  }
}
