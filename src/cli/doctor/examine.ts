import type { CheckRecord, DoctorRecord, Verdict } from '../../api/doctor-types.ts';
import { API_VERSION, type StatusRecord } from '../../api/types.ts';
import { ConfigErrors } from '../../config/config-errors.ts';
import type { LoadedConfig } from '../../config/load.ts';
import { MeshError } from '../../core/errors.ts';
import { blameFirewall, isSilence, type Silence } from '../../doctor/blame-firewall.ts';
import { orderByCause } from '../../doctor/causes.ts';
import { type Check, Findings } from '../../doctor/check.ts';
import { readKernelRules } from '../../doctor/machine/packet-filter.ts';
import { mergeRecords } from '../../doctor/merge.ts';
import { runChecks } from '../../doctor/run-checks.ts';
import { connects } from '../../doctor/store/connects.ts';
import { storeChecks } from '../../doctor/store/store-checks.ts';
import { configuredStores } from '../../doctor/store/store-list.ts';
import { build } from '../../host/build.ts';
import { askAgent } from '../agent-socket.ts';
import type { Call } from '../command.ts';
import { loadFor } from '../config-options.ts';
import { configurationRecords, fileCheck, joinCheck, machineWithoutAgent } from './local-checks.ts';

/** The agent gives its own checks 12 s. */
const CHECK_MS = 17_000;
const TOTAL_MS = 25_000;
const STATUS_MS = 4_000;
const CONNECT_MS = 1_500;

export interface ExamineOptions {
  readonly call: Call;
  readonly onProgress: (done: number, of: number, title: string) => void;
}

/** Looks at everything, with the agent or without one. Never throws, and ends within its limits. */
export async function examine({ call, onProgress }: ExamineOptions): Promise<DoctorRecord> {
  const start = performance.now();
  const { loaded, records } = await loadConfiguration(call);
  const agent = await askStatus(call);
  records.push(...agent.records);
  const run = new Run(call, agent.status);
  const checks = await run.checks(loaded);
  records.push(...(await runChecks(checks, { checkMs: CHECK_MS, totalMs: TOTAL_MS, onProgress })));
  records.push(...(await run.blame(records)));
  const ordered = orderByCause(mergeRecords(records, run.ofAgent));
  const counts: Record<Verdict, number> = { ok: 0, warning: 0, error: 0, skipped: 0 };
  for (const { verdict } of ordered) counts[verdict]++;
  return {
    apiVersion: API_VERSION,
    kind: 'Doctor',
    state: stateOf(agent.status, ordered),
    version: build.version,
    at: Date.now(),
    tookMs: Math.round(performance.now() - start),
    counts,
    checks: ordered,
  };
}

function stateOf(status: StatusRecord | undefined, checks: readonly CheckRecord[]): DoctorRecord['state'] {
  if (status === undefined) return 'not-running';
  if (status.state === 'not-joined') return 'not-joined';
  return checks.some(({ verdict }) => verdict === 'error') ? 'degraded' : 'ok';
}

async function loadConfiguration(call: Call): Promise<{ loaded: LoadedConfig | undefined; records: CheckRecord[] }> {
  try {
    const loaded = await loadFor(call);
    return { loaded, records: configurationRecords(loaded, []) };
  } catch (error) {
    if (!(error instanceof ConfigErrors)) throw error;
    return { loaded: undefined, records: configurationRecords(undefined, error.problems) };
  }
}

interface Asked {
  readonly status: StatusRecord | undefined;
  readonly records: readonly CheckRecord[];
}

/** Whether there is an agent, of which version, and whether it speaks. */
async function askStatus(call: Call): Promise<Asked> {
  const findings = new Findings({ group: 'agent', name: 'running' });
  try {
    const status = await askAgent(call, { silenceMs: STATUS_MS }).status();
    const { version, pid, startedAt } = status.agent;
    if (version !== build.version)
      findings.warning('AGT-VERSION', `the agent that runs is version ${version}, this program ${build.version}`, {
        remedy: 'restart the agent: `systemctl restart mesh-agent`',
      });
    else findings.ok(`version ${version}, process ${pid}, since ${new Date(startedAt).toISOString()}`);
    return { status, records: findings.list };
  } catch (error) {
    // Where the socket is said to be is said by the configuration; what is wrong with that is told there.
    if (error instanceof ConfigErrors)
      findings.error('API-UNREACHABLE', 'the configuration does not tell where its socket is');
    else findings.thrown(error, 'API-UNREACHABLE');
    return { status: undefined, records: findings.list };
  }
}

/** One examination: what the parts of it tell each other. */
class Run {
  readonly ofAgent: CheckRecord[] = [];
  readonly #call: Call;
  readonly #status: StatusRecord | undefined;
  readonly #silences: Silence[] = [];

  constructor(call: Call, status: StatusRecord | undefined) {
    this.#call = call;
    this.#status = status;
  }

  async checks(loaded: LoadedConfig | undefined): Promise<Check[]> {
    const ofAgent = this.#status === undefined ? [] : [this.#agentCheck()];
    if (loaded === undefined) return ofAgent;
    const { config } = loaded;
    const joined = this.#status?.machine.cluster?.name ?? config.cluster?.name;
    const stores = await configuredStores(config, joined);
    const join: Check = { group: 'configuration', name: 'join', title: 'joining', look: () => joinCheck(config) };
    const probes = storeChecks({
      stores,
      heartbeatSeenAt: (name) => this.#status?.clusters.find((each) => each.name === name)?.store.lastHeartbeat,
      onProbed: (store, endpoints) => {
        for (const endpoint of endpoints) if (isSilence(endpoint)) this.#silences.push({ store, endpoint });
      },
    });
    const machine = this.#status === undefined ? machineWithoutAgent(config, stores) : [];
    return [fileCheck(loaded), join, ...machine, ...probes, ...ofAgent];
  }

  /** What others' rules have to do with the silence of a store; nothing where they cannot be read. */
  async blame(records: readonly CheckRecord[]): Promise<CheckRecord[]> {
    if (this.#silences.length === 0 || process.getuid?.() !== 0) return [];
    try {
      const reached = await Promise.all(this.#silences.map(({ endpoint }) => connects(endpoint, CONNECT_MS)));
      const silences = this.#silences.filter((_, index) => reached[index] !== true);
      const { foreign } = await readKernelRules();
      return blameFirewall(silences, foreign, [...records, ...this.ofAgent]);
    } catch (error) {
      if (error instanceof MeshError) return [];
      throw error;
    }
  }

  /** Its records are kept apart, to be compared with what is found here. */
  #agentCheck(): Check {
    return {
      group: 'agent',
      name: 'checks',
      title: 'what the agent knows',
      look: async () => {
        const { checks } = await askAgent(this.#call).doctor();
        this.ofAgent.push(...checks);
        return [];
      },
    };
  }
}
