import type { NodeHealthRecord, NodeHealthSummary } from '../../api/node-health-types.ts';
import type { Config } from '../../config/config.ts';
import type { Feed } from '../../core/feed.ts';
import { sleep } from '../../core/job.ts';
import type { Node } from '../../kvstore/codec/node.ts';
import { HelloServer } from './hello-server.ts';
import { type Probed, Prober, type ProberOptions } from './prober.ts';
import { addressRecord, type ProbedAddress, ProbeResults } from './results.ts';
import { doubtful, roundMs } from './schedule.ts';
import { type TargetOptions, targetsOf } from './targets.ts';

export interface NodeHealthOptions extends Pick<ProberOptions, 'blocked' | 'onFinding' | 'onEchoTrouble'> {
  readonly config: Config['health'];
  /** The other nodes, by `<cluster>/<name>`. */
  readonly nodes: () => Iterable<readonly [string, Node]>;
  readonly changed: Feed<string>;
  readonly targets: () => TargetOptions;
  /** Probes of other nodes that this machine's policy does not let in. */
  readonly refuses: () => readonly string[];
  readonly onListenTrouble: (text: string | undefined) => void;
}

/** Nodes that do not answer so often in a row are a trouble: one lost packet is none. */
const TROUBLE_FAILURES = 2;
/** New nodes gather for so long, milliseconds. */
const GATHER_MS = 500;
/** A look that somebody waits for takes so long for each address, milliseconds. */
const QUICK_MS = 10;
/** The first at new nodes: at a start there are many of them, and other things to do. */
const FIRST_MS = 100;
const EXAMPLES = 3;

/** What the probes of one cluster's nodes say, when some do not answer. */
export interface SilentNodes {
  readonly nodes: number;
  readonly silent: number;
  readonly examples: readonly string[];
}

/**
 * Probes the other nodes, round after round, and answers their probes. Every node is probed once in the interval, evenly
 * spread, or less often where there are many (`schedule.ts`); a new one within a second or so.
 */
export class NodeHealth {
  readonly #options: NodeHealthOptions;
  readonly #results = new ProbeResults();
  readonly #prober: Prober;
  readonly #server: HelloServer;
  /** Not all machines begin with the same node. */
  readonly #start = Math.random();
  #known: ReadonlyMap<string, Node> = new Map();
  /** What is probed of each of them. */
  readonly #probed = new Map<string, readonly Probed[]>();
  #told = '';
  #last: { readonly begunAt: number; readonly probedAt: number } | undefined;
  /** A look that somebody asked for: it is under way, or waits for the one that is. */
  #asked: Promise<void> = Promise.resolve();
  #waiting = false;

  constructor(options: NodeHealthOptions) {
    this.#options = options;
    const { port, timeout } = options.config;
    this.#prober = new Prober({ ...options, port, timeoutMs: timeout * 1000, results: this.#results });
    this.#server = new HelloServer({ port, onTrouble: options.onListenTrouble });
  }

  /** The machine's own addresses, as text. */
  answerOn(addresses: readonly string[]): void {
    this.#server.listenOn(addresses);
  }

  close(): void {
    this.#prober.close();
    this.#server.close();
  }

  async run(signal: AbortSignal): Promise<void> {
    let wake: () => void = () => undefined;
    const reader = this.#options.changed.read(() => wake());
    const firstLooks = async (): Promise<void> => {
      while (!signal.aborted) {
        if (!reader.pending) {
          const woken = new AbortController();
          wake = () => woken.abort();
          await sleep(1 << 30, AbortSignal.any([signal, woken.signal]));
        }
        await sleep(GATHER_MS, signal);
        reader.drain();
        if (signal.aborted) return;
        const all = this.#refresh();
        const fresh = all.filter((each) => !this.#isProbed(each));
        await this.#look(fresh, { known: all.length, eachMs: FIRST_MS });
      }
    };
    await Promise.all([firstLooks(), this.#rounds(signal), this.#secondLooks(signal)]);
    reader.close();
  }

  /** One quick round over all nodes, beside the slow ones. It begins after this moment, milliseconds since the epoch. */
  probe(): number {
    if (!this.#waiting) {
      this.#waiting = true;
      this.#asked = this.#asked.then(() => {
        this.#waiting = false;
        const all = this.#refresh();
        return this.#look(all, { known: all.length, eachMs: QUICK_MS });
      });
    }
    return Date.now();
  }

  summary(): NodeHealthSummary {
    const counts = { reachable: 0, unreachable: 0, blocked: 0, unknown: 0 };
    let nodes = 0;
    for (const node of this.#results.nodes()) {
      nodes++;
      counts[this.#results.stateOf(node)]++;
    }
    return {
      ...this.#last,
      nodes,
      ...counts,
      answersOn: this.#server.listening,
      refuses: this.#options.refuses(),
    };
  }

  *list(): Iterable<NodeHealthRecord> {
    for (const key of [...this.#results.nodes()].sort()) {
      const node = this.#known.get(key);
      if (node === undefined) continue;
      yield {
        name: node.name,
        cluster: node.cluster,
        state: this.#results.stateOf(key),
        addresses: [...this.#results.of(key)].map(addressRecord),
      };
    }
  }

  /** By cluster; clusters whose nodes all answer are left out. */
  silent(): ReadonlyMap<string, SilentNodes> {
    const found = new Map<string, { nodes: number; silent: number; examples: string[] }>();
    for (const [key, node] of this.#known) {
      const cluster = found.get(node.cluster) ?? { nodes: 0, silent: 0, examples: [] };
      found.set(node.cluster, cluster);
      cluster.nodes++;
      const failing = this.#failing(key);
      if (failing === undefined) continue;
      cluster.silent++;
      if (cluster.examples.length >= EXAMPLES) continue;
      const how = [
        ...(failing.icmp.state === 'failed' ? [`ICMP ${failing.icmp.reason}`] : []),
        ...(failing.http.state === 'failed' ? [`HTTP ${failing.http.reason}`] : []),
      ];
      cluster.examples.push(`${node.name} (${failing.target.ip}: ${how.join(', ')})`);
    }
    for (const [cluster, { silent }] of found) if (silent === 0) found.delete(cluster);
    return found;
  }

  async #rounds(signal: AbortSignal): Promise<void> {
    const intervalMs = this.#options.config.interval * 1000;
    while (!signal.aborted) {
      const [began, begunAt] = [performance.now(), Date.now()];
      const all = this.#refresh();
      const first = Math.floor(all.length * this.#start);
      const spreadMs = roundMs(all.length, intervalMs);
      await this.#prober.round([...all.slice(first), ...all.slice(0, first)], spreadMs);
      if (signal.aborted) return;
      if (all.length > 0) this.#done(begunAt);
      await sleep(began + spreadMs - performance.now(), signal);
    }
  }

  async #secondLooks(signal: AbortSignal): Promise<void> {
    const intervalMs = this.#options.config.interval * 1000;
    const failed = ({ node, target }: Probed): boolean => (this.#results.get(node, target.ip)?.failures ?? 0) > 0;
    while (!signal.aborted) {
      await sleep(intervalMs, signal);
      if (signal.aborted) return;
      await this.#prober.round(doubtful([...this.#probed.values()].flat(), { failed, intervalMs }), intervalMs / 2);
    }
  }

  /** `known`: so many addresses there are; a look at some of them is no round. */
  async #look(probed: readonly Probed[], { known, eachMs }: { known: number; eachMs: number }): Promise<void> {
    if (probed.length === 0) return;
    const spreadMs = probed.length * eachMs;
    const begunAt = Date.now();
    await this.#prober.round(probed, spreadMs);
    if (probed.length === known || this.#last === undefined) this.#done(begunAt);
  }

  /** Of two rounds side by side, the one that began later is the last. */
  #done(begunAt: number): void {
    if (begunAt >= (this.#last?.begunAt ?? 0)) this.#last = { begunAt, probedAt: Date.now() };
  }

  #isProbed({ node, target }: Probed): boolean {
    return this.#results.get(node, target.ip)?.icmp.probedAt !== undefined;
  }

  #failing(node: string): ProbedAddress | undefined {
    for (const each of this.#results.of(node))
      if (each.target.primary && each.failures >= TROUBLE_FAILURES) return each;
    return undefined;
  }

  /** Takes in which nodes there are; what is to be probed, in the order of their names. */
  #refresh(): Probed[] {
    const options = this.#options.targets();
    const same = JSON.stringify(options) === this.#told;
    this.#told = JSON.stringify(options);
    const known = new Map([...this.#options.nodes()].sort(([a], [b]) => (a < b ? -1 : 1)));
    for (const node of this.#known.keys())
      if (!known.has(node)) {
        this.#results.retain(node, []);
        this.#probed.delete(node);
      }
    for (const [node, value] of known) {
      // A node that is what it was costs nothing: there may be thousands.
      if (same && this.#known.get(node) === value) continue;
      const targets = targetsOf(value, options);
      this.#results.retain(node, targets);
      this.#probed.set(
        node,
        targets.map((target) => ({ node, target })),
      );
    }
    this.#known = known;
    return [...known.keys()].flatMap((node) => this.#probed.get(node) ?? []);
  }
}
