import { serveApi } from '../api/server.ts';
import { exportStatus } from '../api/status-metrics.ts';
import type { StatusRecord } from '../api/types.ts';
import type { LoadedConfig } from '../config/load.ts';
import { MeshError, messageOf } from '../core/errors.ts';
import { build } from '../host/build.ts';
import { crashOnSurprise, stopSignal } from '../host/daemon.ts';
import { openServiceManager, type ServiceManager } from '../host/systemd.ts';
import { openLog } from '../observe/log.ts';
import { openMetrics } from '../observe/metrics.ts';
import { serveMetrics } from '../observe/metrics-server.ts';
import { Agent } from './agent.ts';
import { agentApi } from './views/api.ts';

/** systemd is told that we are ready when the machine is enforced, or after this time: a hub that is away must not stop a boot. */
const READY_MS = 20_000;
/** An agent that cannot even end is ended. */
const STOP_MS = 10_000;

const WORDS: Readonly<Record<string, string>> = {
  SIGHUP: 'SIGHUP received: configuration is read at start only; policies and clusters are watched',
};

/** Runs the daemon until it is told to stop. @returns the exit code */
export async function runAgent(loaded: LoadedConfig): Promise<number> {
  // Before any program is started: none may speak to the service manager in our name.
  const service = openServiceManager();
  process.title = 'mesh-agent';
  const { config } = loaded;
  const metrics = openMetrics(build);
  const log = openLog({ ...config.log, onProblem: (level, room) => metrics.logged(level, room) });
  log.info('mesh-agent starts', {
    version: build.version,
    commit: build.commit,
    name: config.name,
    files: loaded.files,
  });
  for (const warning of loaded.warnings) log.warn(warning.message, { code: warning.code, place: warning.place });
  crashOnSurprise((error) => {
    log.error('unexpected error: the agent ends, the rules stay in force', { error });
    log.flush();
  });
  const closers: (() => Promise<void>)[] = [];
  try {
    const stopped = stopSignal((signal) => log.info(WORDS[signal] ?? `${signal} received`));
    const notices = new Notices(service);
    const named = loaded.origins.get('name')?.kind !== 'default';
    const agent = new Agent({ config, named, log, metrics, onChange: () => notices.update(agent) });
    // It watches files from the beginning: an agent that cannot serve must stop that too, to end at once.
    closers.push(() => agent.stop());
    const api = agentApi(agent);
    const serving = await serveApi({
      api,
      socket: config.socket,
      log: log.child('api'),
      ...(config.socketGroup !== undefined && { group: config.socketGroup }),
    });
    closers.push(() => serving.close());
    exportStatus(metrics, () => api.status());
    if (config.metrics.listen !== '') {
      // A port that is taken is told, and costs the metrics, not the agent.
      const server = await serveMetrics({
        listen: config.metrics.listen,
        metrics,
        live: () => undefined,
        ready: () => waitingWords(api.status(), agent),
      }).catch((error: unknown) => {
        agent.health.fail('metrics', asMeshError(error));
        return undefined;
      });
      if (server !== undefined) {
        log.info('metrics are served', { url: server.url });
        closers.push(() => server.close());
      }
    }
    await agent.start();
    service.startWatchdog();
    notices.update(agent);
    await stopped;
    service.notifyStopping();
    log.info('mesh-agent stops; the rules stay in force');
    return 0;
  } catch (error) {
    log.error('mesh-agent cannot run', { error });
    return 1;
  } finally {
    setTimeout(() => process.exit(1), STOP_MS).unref();
    for (const close of closers.reverse())
      await close().catch((error: unknown) => log.warn('a part did not stop', { error }));
    metrics.close();
    await log.close();
  }
}

function asMeshError(error: unknown): MeshError {
  return error instanceof MeshError ? error : new MeshError('AGT-FAILED', messageOf(error), { cause: error });
}

/** What keeps the machine from being enforced as desired; undefined when nothing does. */
function waitingWords(status: StatusRecord, agent: Agent): string | undefined {
  const missing = agent.readiness.missing();
  if (missing.length > 0 && !agent.reconciler.opened) return missing.join('; ');
  const error = status.health.find(({ severity }) => severity === 'error');
  if (error !== undefined) return `${error.code} ${error.text}`;
  return agent.config.datapath === 'none' || agent.datapath.status.applied
    ? undefined
    : 'the data path is not applied yet';
}

/** Tells systemd how it goes, in one line, when that line changes. */
class Notices {
  readonly #service: ServiceManager;
  readonly #started = performance.now();
  #ready = false;
  #line = '';

  constructor(service: ServiceManager) {
    this.#service = service;
  }

  update(agent: Agent): void {
    if (!this.#service.present) return;
    const line = statusLine(agent);
    const enforced = agent.enforcing || agent.lastGood.holding;
    const ready = enforced || agent.config.datapath === 'none' || performance.now() - this.#started > READY_MS;
    if (ready && !this.#ready) {
      this.#ready = true;
      this.#line = line;
      this.#service.notifyReady(line);
    } else if (line !== this.#line) {
      this.#line = line;
      this.#service.notifyStatus(line);
    }
  }
}

function statusLine(agent: Agent): string {
  if (!agent.reconciler.opened) {
    const held = agent.lastGood.holding ? 'the last-good snapshot is in force; ' : '';
    return `${held}waiting: ${agent.readiness.missing()[0] ?? 'starting'}`;
  }
  const clusters = agent.mesh.list();
  const ready = clusters.filter(({ cluster }) => cluster.ready).length;
  const error = agent.health.list().find(({ severity }) => severity === 'error');
  const state = agent.enforcing ? 'enforcing' : 'not enforcing';
  const trouble = error === undefined ? '' : `; ${error.code} ${error.text}`;
  return `${state}; ${ready}/${clusters.length} clusters ready; ${agent.tables.identities.size} identities${trouble}`;
}
