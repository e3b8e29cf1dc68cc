import { formatAddress } from '../../core/ip.ts';
import { sleep } from '../../core/job.ts';
import type { Metrics } from '../../observe/metrics.ts';
import type { Agent } from '../agent.ts';
import { exportProbes } from './metrics.ts';
import { NodeHealth, type NodeHealthOptions } from './node-health.ts';
import { blockedProbe, refusedProbes } from './opinion.ts';

const FOR_EVER_MS = 1 << 30;

/** The probes of this agent, by the settings of now: others begin anew, with other sockets and nothing known yet. */
export class Probes {
  readonly #agent: Agent;
  readonly #metrics: Metrics;
  #onFinding: NodeHealthOptions['onFinding'] | undefined;
  #present: NodeHealth | undefined;
  /** Ends what is done by the settings of before. */
  #again = new AbortController();
  #moving = false;

  /** Nothing is opened before `run`. */
  constructor(agent: Agent, metrics: Metrics) {
    this.#agent = agent;
    this.#metrics = metrics;
  }

  /** Undefined when they are off. */
  get present(): NodeHealth | undefined {
    return this.#present;
  }

  /** A change has been said, and is not in force yet. */
  get moving(): boolean {
    return this.#moving;
  }

  /** The settings are others. */
  reconfigure(): void {
    this.#moving = true;
    this.#again.abort();
  }

  /** The addresses of the machine are others. */
  addressesChanged(): void {
    this.#present?.answerOn(answeringAddresses(this.#agent));
  }

  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      this.#again = new AbortController();
      const changed = AbortSignal.any([signal, this.#again.signal]);
      const nodeHealth = this.#agent.config.health.enabled ? this.#open() : undefined;
      this.#present = nodeHealth;
      this.addressesChanged();
      this.#moving = false;
      if (nodeHealth === undefined) await sleep(FOR_EVER_MS, changed);
      else await this.#hold(nodeHealth, changed);
      this.#present = undefined;
    }
  }

  async #hold(nodeHealth: NodeHealth, signal: AbortSignal): Promise<void> {
    // At once: what is asked at the moment may take as long as a round.
    signal.addEventListener('abort', () => nodeHealth.close(), { once: true });
    await nodeHealth.run(signal);
    for (const subject of ['health/echo', 'health/listen']) this.#agent.health.clear(subject, 'AGT-HEALTH');
  }

  #open(): NodeHealth {
    const agent = this.#agent;
    const { health, machine, tables } = agent;
    const trouble = (subject: string) => (text: string | undefined) =>
      health.check(subject, 'AGT-HEALTH', text === undefined ? undefined : { text, severity: 'warning' });
    return new NodeHealth({
      config: agent.config.health,
      *nodes() {
        for (const entry of tables.nodes.entries()) if (!agent.desired.isSelf(entry[1])) yield entry;
      },
      changed: tables.nodes.changed,
      targets: () => ({ families: machine.families, tunnel: agent.config.routing === 'tunnel' }),
      blocked: (target, kind) => blockedProbe(agent, target, kind),
      refuses: () => refusedProbes(agent),
      onFinding: this.#findings(),
      onEchoTrouble: trouble('health/echo'),
      onListenTrouble: trouble('health/listen'),
    });
  }

  /** Metrics are there from the first probes on, and stay. */
  #findings(): NodeHealthOptions['onFinding'] {
    const agent = this.#agent;
    this.#onFinding ??= exportProbes({
      metrics: this.#metrics,
      source: () => ({ cluster: agent.registration?.registered?.cluster.name ?? '', name: agent.config.name }),
      nodes: () => this.#present?.list() ?? [],
    });
    return this.#onFinding;
  }
}

/** The addresses on which a machine answers probes: its own in the mesh, and no other. */
function answeringAddresses({ machine }: Agent): string[] {
  return [machine.ipv4, machine.ipv6].filter((address) => address !== undefined).map(formatAddress);
}
