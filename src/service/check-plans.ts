import type { CheckPlan, PlaceKey } from './result.ts';
import { sameCheck } from './settings.ts';

/** By pool, what is to be checked, and what the checks found out: failures alone, the rest counts as healthy. */
export class CheckPlans {
  readonly #plans = new Map<string, CheckPlan>();
  readonly #failures = new Map<string, Map<PlaceKey, string>>();
  #changed = new Set<string>();

  get(pool: string): CheckPlan | undefined {
    return this.#plans.get(pool);
  }

  failure(pool: string, place: PlaceKey): string | undefined {
    return this.#failures.get(pool)?.get(place);
  }

  /** What is not checked has no result. @returns whether this is another one than before */
  setFailure(pool: string, place: PlaceKey, failure: string | undefined): boolean {
    if (this.#plans.get(pool)?.targets.has(place) !== true) return false;
    const failures = this.#failures.get(pool) ?? new Map<PlaceKey, string>();
    if (failures.get(place) === failure) return false;
    if (failure === undefined) failures.delete(place);
    else failures.set(place, failure);
    this.#failures.set(pool, failures);
    return true;
  }

  /** @returns whether results that counted until now are worth nothing any more: whatever was made of them is to be made anew */
  set(pool: string, plan: CheckPlan | undefined): boolean {
    const before = this.#plans.get(pool);
    const wanted = plan !== undefined && plan.targets.size > 0 ? plan : undefined;
    if (samePlan(before, wanted)) return false;
    if (wanted === undefined) this.#plans.delete(pool);
    else this.#plans.set(pool, wanted);
    this.#changed.add(pool);
    if (!sameCheck(before?.check, wanted?.check)) return this.#failures.delete(pool);
    const failures = this.#failures.get(pool);
    for (const place of failures?.keys() ?? []) if (wanted?.targets.has(place) !== true) failures?.delete(place);
    return false;
  }

  /** Pools whose plans changed since the last call. */
  drain(): ReadonlySet<string> {
    const changed = this.#changed;
    this.#changed = new Set();
    return changed;
  }
}

function samePlan(a: CheckPlan | undefined, b: CheckPlan | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  if (!sameCheck(a.check, b.check) || a.targets.size !== b.targets.size) return false;
  for (const [place, { port }] of b.targets) if (a.targets.get(place)?.port !== port) return false;
  return true;
}
