import type { Family } from '../../core/ip.ts';
import { checkPort, type PortCheck } from '../../host/port-check.ts';
import type { MachineService, ServiceCheck } from '../../kvstore/codec/machine-service.ts';
import { type CheckReport, type CheckReports, MAX_REPORTED } from '../../kvstore/codec/serving-report.ts';
import { Slots } from '../probes/slots.ts';
import { Thresholds } from './thresholds.ts';

export interface SelfChecksOptions {
  /** A result that counts is another. */
  readonly onChange: () => void;
  readonly check?: (check: PortCheck) => Promise<string | undefined>;
}

/** What is looked at: all checks of one service, on the machine's address of one family. */
interface Target {
  readonly service: string;
  readonly family: Family;
  readonly address: string;
  readonly checks: readonly ServiceCheck[];
  readonly intervalMs: number;
  readonly timeoutMs: number;
  readonly text: string;
  readonly thresholds: Thresholds;
  timer: NodeJS.Timeout | undefined;
}

/** How many connections are open for checks at once. */
const AT_ONCE = 32;

/**
 * The machine's checks of what it serves, on the addresses that others reach it by: a program that listens on loopback
 * alone does not serve. What counts changes after so many equal results in a row; the first result of all counts at once.
 */
export class SelfChecks {
  readonly #options: SelfChecksOptions;
  readonly #targets = new Map<string, Target>();
  /** Of an earlier run: they count until there is a result. */
  #restored: CheckReports = new Map();
  readonly #slots = new Slots(AT_ONCE);
  #closed = false;

  constructor(options: SelfChecksOptions) {
    this.#options = options;
  }

  restore(reports: CheckReports): void {
    this.#restored = reports;
  }

  /** From now on these, and no others. */
  set(services: ReadonlyMap<string, MachineService>, addresses: ReadonlyMap<Family, string>): void {
    const wanted = new Set<string>();
    const checked = [...services].filter(([, { checks }]) => checks.length > 0).slice(0, MAX_REPORTED);
    for (const [service, { checks, timing }] of checked) {
      for (const [family, address] of addresses) {
        const key = `${family} ${service}`;
        wanted.add(key);
        const text = JSON.stringify([address, checks, timing]);
        const before = this.#targets.get(key);
        if (before?.text === text) continue;
        clearTimeout(before?.timer);
        const known = before?.thresholds.report ?? this.#restored.get(service)?.get(family);
        const thresholds = new Thresholds({ rise: timing.rise, fall: timing.fall, known, other: before !== undefined });
        const [intervalMs, timeoutMs] = [timing.interval * 1000, timing.timeout * 1000];
        const target: Target = {
          ...{ service, family, address, checks, intervalMs, timeoutMs, text, thresholds },
          timer: undefined,
        };
        this.#targets.set(key, target);
        void this.#run(key, target);
      }
    }
    for (const [key, { timer }] of this.#targets) {
      if (wanted.has(key)) continue;
      clearTimeout(timer);
      this.#targets.delete(key);
    }
  }

  reports(): CheckReports {
    const reports = new Map<string, Map<Family, CheckReport>>();
    for (const { service, family, thresholds } of this.#targets.values()) {
      if (thresholds.report === undefined) continue;
      const families = reports.get(service) ?? new Map<Family, CheckReport>();
      reports.set(service, families.set(family, thresholds.report));
    }
    return reports;
  }

  close(): void {
    this.#closed = true;
    for (const { timer } of this.#targets.values()) clearTimeout(timer);
    this.#targets.clear();
  }

  async #run(key: string, target: Target): Promise<void> {
    const began = performance.now();
    const reason = await this.#look(target);
    // Another one has taken its place meanwhile.
    if (this.#closed || this.#targets.get(key) !== target) return;
    if (target.thresholds.take(reason, Date.now())) this.#options.onChange();
    const wait = Math.max(0, began + target.intervalMs - performance.now());
    target.timer = setTimeout(() => void this.#run(key, target), wait).unref();
  }

  /** The first check that fails, in words; undefined when none does. */
  async #look({ address, checks, timeoutMs }: Target): Promise<string | undefined> {
    const { check = checkPort } = this.#options;
    const found = await Promise.all(
      checks.map(async (each) => {
        await this.#slots.take();
        try {
          const path = each.type === 'http' ? { path: each.path } : {};
          const reason = await check({ address, port: each.port, timeoutMs, ...path });
          return reason === undefined ? undefined : `${nameOf(each)}: ${reason}`;
        } finally {
          this.#slots.free();
        }
      }),
    );
    return found.find((reason) => reason !== undefined);
  }
}

function nameOf(check: ServiceCheck): string {
  return check.type === 'tcp' ? `tcp/${check.port}` : `http ${check.port}${check.path}`;
}
