import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

/**
 * What the program measures about itself. Facts that the agent's records already hold are not kept here a second time:
 * whoever owns a record adds a collector, which runs at each scrape.
 */
export interface Metrics {
  readonly registry: Registry;
  /** Runs before each scrape; must be quick and must not throw. */
  onScrape(collect: () => void): void;
  /** A change set reached the kernel. */
  applied(report: AppliedReport): void;
  applyFailed(code: string): void;
  /** `room` is the part of the program that logged a warning or an error. */
  logged(level: 'warn' | 'error', room: string): void;
  /** A part of the start-up is over: `kvstore`, `restore`, `datapath`, `overall`. */
  bootstrapped(scope: string, seconds: number, outcome: 'success' | 'failure'): void;
  render(): Promise<string>;
  /** Stops measuring the event loop. */
  close(): void;
}

export interface AppliedReport {
  /** From the first change to the kernel, milliseconds. */
  readonly delayMs: number;
  /** The apply alone, milliseconds. */
  readonly tookMs: number;
  readonly added: number;
  readonly removed: number;
  readonly cut: number;
}

export interface BuildFacts {
  readonly version: string;
  readonly commit: string;
}

/** Below the bars of 100 ms (change to kernel) and 50 ms (event loop), around them, and far above. */
const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30];
/** 20 wake-ups a second are not seen in the CPU time of an agent at rest; 100 would be. */
const LOOP_RESOLUTION_MS = 50;

export function openMetrics(build: BuildFacts): Metrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: LOOP_RESOLUTION_MS });
  const collectors: (() => void)[] = [];
  const loop = watchEventLoop(registers);
  new Gauge({ name: 'cilium_version', help: 'version', labelNames: ['version', 'revision', 'arch'], registers }).set(
    { version: build.version, revision: build.commit, arch: process.arch },
    1,
  );
  const delay = new Histogram({
    name: 'mesh_agent_reconcile_delay_seconds',
    help: 'time from a change to the kernel',
    buckets: SECONDS,
    registers,
  });
  const apply = new Histogram({
    name: 'mesh_agent_apply_seconds',
    help: 'time of one change set in the kernel',
    buckets: SECONDS,
    registers,
  });
  const applies = new Counter({
    name: 'mesh_agent_applies_total',
    help: 'change sets by outcome; an error code is the outcome of a failed one',
    labelNames: ['outcome'],
    registers,
  });
  const regenerations = new Counter({
    name: 'cilium_endpoint_regenerations_total',
    help: 'change sets by outcome, as Cilium counts those of its endpoints',
    labelNames: ['outcome'],
    registers,
  });
  const changes = new Counter({
    name: 'mesh_agent_kernel_changes_total',
    help: 'elements and rules added to and removed from the kernel',
    labelNames: ['operation'],
    registers,
  });
  const cut = new Counter({
    name: 'mesh_agent_connections_cut_total',
    help: 'established connections that a change forbade',
    registers,
  });
  const logged = new Counter({
    name: 'cilium_errors_warnings_total',
    help: 'warnings and errors that were logged',
    labelNames: ['level', 'subsystem'],
    registers,
  });
  const bootstrap = new Gauge({
    name: 'cilium_agent_bootstrap_seconds',
    help: 'time of the parts of the start-up',
    labelNames: ['scope', 'outcome'],
    registers,
  });
  return {
    registry,
    onScrape: (collect) => void collectors.push(collect),
    applied(report) {
      delay.observe(report.delayMs / 1000);
      apply.observe(report.tookMs / 1000);
      applies.inc({ outcome: 'success' });
      regenerations.inc({ outcome: 'success' });
      changes.inc({ operation: 'add' }, report.added);
      changes.inc({ operation: 'remove' }, report.removed);
      cut.inc(report.cut);
    },
    applyFailed(code) {
      applies.inc({ outcome: code });
      regenerations.inc({ outcome: 'fail' });
    },
    logged: (level, room) => logged.inc({ level: level === 'warn' ? 'warning' : 'error', subsystem: room }),
    bootstrapped: (scope, seconds, outcome) => bootstrap.set({ scope, outcome }, seconds),
    render() {
      for (const collect of collectors) collect();
      return registry.metrics();
    },
    close: () => loop.disable(),
  };
}

/** How late the event loop was since the last scrape: the delay beyond the timer's own period. */
function watchEventLoop(registers: Registry[]): { disable(): void } {
  const histogram = monitorEventLoopDelay({ resolution: LOOP_RESOLUTION_MS });
  histogram.enable();
  new Gauge({
    name: 'mesh_agent_event_loop_delay_seconds',
    help: 'how late the event loop was since the last scrape',
    labelNames: ['quantile'],
    registers,
    collect() {
      const late = (nanoseconds: number): number => Math.max(0, nanoseconds / 1e9 - LOOP_RESOLUTION_MS / 1000) || 0;
      this.set({ quantile: '0.5' }, late(histogram.percentile(50)));
      this.set({ quantile: '0.99' }, late(histogram.percentile(99)));
      this.set({ quantile: '1' }, late(histogram.max));
      histogram.reset();
    },
  });
  return { disable: () => void histogram.disable() };
}
