import { DatapathAround } from './around.ts';
import type { ApplyReport, Datapath, DatapathStatus, KernelFrontend, VerdictCount } from './datapath.ts';
import type { DesiredChanges, DesiredState } from './desired.ts';

export interface SplitOptions {
  /** Judges, and knows nothing of services. */
  readonly judge: Datapath;
  /** Leads packets of services, and judges nothing. */
  readonly leader: Datapath;
}

/**
 * One data path that judges beside one that leads packets to backends. Policies do not wait for services: the judge goes first,
 * and what the leader cannot do is tried again by whoever is told that the change set failed.
 */
export class SplitDatapath extends DatapathAround {
  readonly #leader: Datapath;

  constructor({ judge, leader }: SplitOptions) {
    super(judge);
    this.#leader = leader;
  }

  override async open(): Promise<void> {
    await this.inner.open();
    await this.#leader.open();
  }

  override async apply(desired: DesiredState, changes: DesiredChanges): Promise<ApplyReport> {
    const judged = await this.inner.apply(desired, changes);
    const led = await this.#leader.apply(desired, changes);
    return {
      added: judged.added + led.added,
      removed: judged.removed + led.removed,
      cut: judged.cut,
      tookMs: judged.tookMs + led.tookMs,
    };
  }

  override dumpServices(): Promise<KernelFrontend[]> {
    return this.#leader.dumpServices();
  }

  override get status(): DatapathStatus {
    const judge = this.inner.status;
    const { applied, error, healed, entries, balances, verdicts } = this.#leader.status;
    const { frontends = 0, slots = 0 } = entries;
    return {
      ...judge,
      applied: judge.applied && applied,
      error: judge.error ?? error,
      healed: judge.healed + healed,
      entries: { ...judge.entries, frontends, slots },
      ...(balances !== undefined && { balances }),
      ...(judge.verdicts !== undefined && { verdicts: sumOf([...judge.verdicts, ...(verdicts ?? [])]) }),
    };
  }

  override onDrift(listener: (what: string) => void): void {
    this.inner.onDrift(listener);
    this.#leader.onDrift(listener);
  }

  override async remove(): Promise<void> {
    await this.#leader.remove();
    await this.inner.remove();
  }

  override async close(): Promise<void> {
    await this.#leader.close();
    await this.inner.close();
  }
}

function sumOf(counts: readonly VerdictCount[]): VerdictCount[] {
  const sums = new Map<string, VerdictCount>();
  for (const count of counts) {
    const key = `${count.kind} ${count.direction}`;
    const { packets = 0, bytes = 0 } = sums.get(key) ?? {};
    sums.set(key, { ...count, packets: count.packets + packets, bytes: count.bytes + bytes });
  }
  return [...sums.values()];
}
