import type { AgentChecksRecord, CheckRecord } from '../../api/doctor-types.ts';
import { API_VERSION } from '../../api/types.ts';
import { sleep } from '../../core/job.ts';
import type { Check } from '../../doctor/check.ts';
import { machineChecks } from '../../doctor/machine/machine-checks.ts';
import { judgeAges, judgeDrift, judgeHealth, judgeRegistration } from '../../doctor/mesh/clusters.ts';
import { judgePolicyClusters } from '../../doctor/mesh/policy-clusters.ts';
import { judgeRanges } from '../../doctor/mesh/ranges.ts';
import { judgeReachability } from '../../doctor/mesh/reachability.ts';
import { judgeServices } from '../../doctor/mesh/services.ts';
import { runChecks } from '../../doctor/run-checks.ts';
import { build } from '../../host/build.ts';
import { nameServers } from '../../host/name-servers.ts';
import type { Agent } from '../agent.ts';
import { clusterView, datapathView, registrationView } from '../views/status-view.ts';
import {
  clusterRanges,
  joinedName,
  knownClusters,
  neededFlows,
  ownNetworks,
  ownRanges,
  policyFacts,
  serviceFacts,
} from './facts.ts';
import { hubCheck } from './hub-check.ts';
import { probeOverlay } from './overlay-probe.ts';

/** Subjects in the agent's health that come from here. */
const SUBJECT = 'doctor/';
/** When the checks run by themselves, milliseconds. */
const TIMING = { firstMs: 60_000, everyMs: 300_000 };
const CHECK_MS = 7_000;
const TOTAL_MS = 12_000;
const MAX_DRIFTS = 100;

/**
 * The checks that need the facts of the agent, and those of its machine: all of them when somebody asks, the cheap ones
 * from time to time by themselves, for `status` and the metrics. What the agent watches anyway (`troubles.ts`) is told there.
 */
export class Doctor {
  readonly #agent: Agent;
  readonly #timing: typeof TIMING;
  readonly #drifts: { readonly at: number; readonly what: string }[] = [];
  #asked: Promise<readonly CheckRecord[]> | undefined;

  constructor(agent: Agent, timing = TIMING) {
    this.#agent = agent;
    this.#timing = timing;
  }

  /** Somebody else changed what is ours in the kernel. */
  drifted(what: string): void {
    this.#drifts.push({ at: Date.now(), what });
    if (this.#drifts.length > MAX_DRIFTS) this.#drifts.shift();
  }

  /** Whoever asks while it runs gets the same answer: it costs packets and programs. */
  async ask(): Promise<AgentChecksRecord> {
    this.#asked ??= runChecks([...this.#standing(), ...this.#thorough()], {
      checkMs: CHECK_MS,
      totalMs: TOTAL_MS,
    }).finally(() => {
      this.#asked = undefined;
    });
    return { apiVersion: API_VERSION, kind: 'AgentChecks', version: build.version, checks: await this.#asked };
  }

  async run(signal: AbortSignal): Promise<void> {
    await sleep(this.#timing.firstMs, signal);
    while (!signal.aborted) {
      const checks = this.#standing();
      const records = await runChecks(checks, { checkMs: CHECK_MS, totalMs: TOTAL_MS, width: 1 });
      if (signal.aborted) return;
      for (const { name } of checks)
        this.#tell(
          name,
          records.filter(({ check }) => check === name),
        );
      await sleep(this.#timing.everyMs, signal);
    }
  }

  /** One health record for each code of a check. */
  #tell(check: string, records: readonly CheckRecord[]): void {
    const { health } = this.#agent;
    const subject = SUBJECT + check;
    const byCode = new Map<string, CheckRecord[]>();
    for (const record of records)
      if (record.code !== undefined) byCode.set(record.code, [...(byCode.get(record.code) ?? []), record]);
    for (const { code } of health.of(subject)) if (!byCode.has(code)) health.clear(subject, code);
    for (const [first, ...others] of byCode.values()) {
      if (first?.code === undefined) continue;
      const more = others.length === 0 ? '' : ` (and ${others.length} more: \`mesh-agent doctor\`)`;
      const error = [first, ...others].some(({ verdict }) => verdict === 'error');
      health.set(subject, {
        code: first.code,
        text: `${first.subject === '' ? '' : `${first.subject}: `}${first.text}${more}`,
        place: first.place,
        severity: error ? 'error' : 'warning',
      });
    }
  }

  #standing(): Check[] {
    const agent = this.#agent;
    return [
      ...machineChecks({
        datapath: agent.config.datapath,
        stateDir: agent.config.stateDir,
        devices: () => agent.machine.devices,
        flows: () => neededFlows(agent, nameServers()),
        enforces: () => agent.enforcing,
      }),
      {
        group: 'network',
        name: 'ranges',
        title: 'address ranges',
        look: () => judgeRanges({ ranges: clusterRanges(agent), networks: ownNetworks(agent), own: ownRanges(agent) }),
      },
      {
        group: 'services',
        name: 'global-services',
        title: 'global services',
        look: () =>
          judgeServices(
            serviceFacts(agent),
            knownClusters(agent).map(({ name }) => name),
          ),
      },
      {
        group: 'policies',
        name: 'policy-clusters',
        title: 'clusters in policies',
        // Before that, not even the own cluster is known.
        look: () =>
          agent.registration?.registered === undefined
            ? []
            : judgePolicyClusters(policyFacts(agent), knownClusters(agent)),
      },
    ];
  }

  #thorough(): Check[] {
    const agent = this.#agent;
    return [
      {
        group: 'agent',
        name: 'health',
        title: 'health of the agent',
        look: () => {
          const joined = joinedName(agent);
          const told = agent.health.list().filter(({ subject }) => !subject.startsWith(SUBJECT));
          const ofStore = ['kvstore', 'registration'];
          return judgeHealth(
            told.map((each) => (ofStore.includes(each.subject) ? { ...each, subject: joined } : each)),
          );
        },
      },
      {
        group: 'agent',
        name: 'registration',
        title: 'registration',
        look: () =>
          judgeRegistration(registrationView(agent), { subject: joinedName(agent), told: agent.health.list() }),
      },
      {
        group: 'clusters',
        name: 'age',
        title: 'age of facts',
        look: () =>
          judgeAges(
            agent.mesh.list().map(({ cluster, store }) => clusterView(agent, cluster, store)),
            Date.now(),
          ),
      },
      {
        group: 'network',
        name: 'drift',
        title: 'kernel',
        look: () => {
          const healedAt = this.#drifts.map(({ at }) => at);
          return judgeDrift(
            { datapath: datapathView(agent), healedAt, lastHand: this.#drifts.at(-1)?.what },
            Date.now(),
          );
        },
      },
      {
        group: 'network',
        name: 'overlay',
        title: 'nodes through the overlay',
        look: async (signal) => {
          const { nodes, of } = await probeOverlay(agent, signal);
          return judgeReachability(nodes, of);
        },
      },
      hubCheck(agent),
    ];
  }
}
