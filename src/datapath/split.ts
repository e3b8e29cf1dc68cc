import type { LoggedPacket } from '../host/packet-log.ts';
import type { KernelConnection } from './connection.ts';
import type {
  ApplyReport,
  Datapath,
  DatapathStatus,
  KernelAddress,
  KernelFrontend,
  KernelPolicyRow,
  VerdictCount,
} from './datapath.ts';
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
export class SplitDatapath implements Datapath {
  readonly #judge: Datapath;
  readonly #leader: Datapath;

  constructor({ judge, leader }: SplitOptions) {
    this.#judge = judge;
    this.#leader = leader;
  }

  get name(): Datapath['name'] {
    return this.#judge.name;
  }

  async open(): Promise<void> {
    await this.#judge.open();
    await this.#leader.open();
  }

  async apply(desired: DesiredState, changes: DesiredChanges): Promise<ApplyReport> {
    const judged = await this.#judge.apply(desired, changes);
    const led = await this.#leader.apply(desired, changes);
    return {
      added: judged.added + led.added,
      removed: judged.removed + led.removed,
      cut: judged.cut,
      tookMs: judged.tookMs + led.tookMs,
    };
  }

  dumpAddresses(): Promise<KernelAddress[]> {
    return this.#judge.dumpAddresses();
  }

  dumpPolicy(): Promise<KernelPolicyRow[]> {
    return this.#judge.dumpPolicy();
  }

  dumpServices(): Promise<KernelFrontend[]> {
    return this.#leader.dumpServices();
  }

  dumpConnections(): Promise<KernelConnection[]> {
    return this.#judge.dumpConnections();
  }

  hear(what: 'verdicts' | 'names', onPacket: (packet: LoggedPacket) => void): (() => void) | undefined {
    return this.#judge.hear?.(what, onPacket);
  }

  get status(): DatapathStatus {
    const judge = this.#judge.status;
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

  onDrift(listener: (what: string) => void): void {
    this.#judge.onDrift(listener);
    this.#leader.onDrift(listener);
  }

  async remove(): Promise<void> {
    await this.#leader.remove();
    await this.#judge.remove();
  }

  async close(): Promise<void> {
    await this.#leader.close();
    await this.#judge.close();
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
