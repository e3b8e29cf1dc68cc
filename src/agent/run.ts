import { MetricsPort } from '../api/metrics-port.ts';
import { Reloader } from '../api/reloader.ts';
import { serveApi } from '../api/server.ts';
import type { AgentApi, StatusRecord } from '../api/types.ts';
import type { LoadedConfig } from '../config/load.ts';
import { MeshError, messageOf } from '../core/errors.ts';
import { build } from '../host/build.ts';
import { crashOnSurprise, onReload, stopSignal } from '../host/daemon.ts';
import { openServiceManager, type ServiceManager } from '../host/systemd.ts';
import { openLog, type RootLog } from '../observe/log.ts';
import { openLogFile } from '../observe/log-file.ts';
import { type Metrics, openMetrics } from '../observe/metrics.ts';
import { Agent } from './agent.ts';
import { exportAgent } from './metrics.ts';
import { agentReload, type Prepare } from './reload.ts';
import { exportServices } from './services/service-metrics.ts';
import { agentApi } from './views/api.ts';

/** systemd is told that we are ready when the machine is enforced, or after this time: a hub that is away must not stop a boot. */
const READY_MS = 20_000;
/** An agent that cannot even end is ended. */
const STOP_MS = 10_000;
/** A reload is over when the kernel has it, or after this time. */
const RELOAD_MS = 10_000;

/** Runs the daemon until it is told to stop. @returns the exit code */
export async function runAgent(loaded: LoadedConfig): Promise<number> {
  // Before any program is started: none may speak to the service manager in our name.
  const service = openServiceManager();
  process.title = 'mesh-agent';
  const { config } = loaded;
  const metrics = openMetrics(build);
  const { fd, unusable } = logTarget(config.log.file);
  const log = openLog({
    ...config.log,
    ...(fd !== undefined && { fd }),
    sumsUp: true,
    onProblem: (level, room) => metrics.logged(level, room),
  });
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
    const stopped = stopSignal((signal) => log.info(`${signal} received`));
    const notices = new Notices(service);
    const named = loaded.origins.get('name')?.kind !== 'default';
    const agent = new Agent({ config, named, log, metrics, onChange: () => notices.update(agent) });
    if (unusable !== undefined) agent.health.fail('log', unusable);
    // It watches files from the beginning: an agent that cannot serve must stop that too, to end at once.
    closers.push(() => agent.stop());
    const { reloader, api, port } = serve({ agent, loaded, log, metrics, notices });
    const beginReloads = onReload(() => reloader.request());
    closers.push(() => reloader.idle());
    const serving = await serveApi({
      api,
      socket: config.socket,
      log: log.child('api'),
      ...(config.socketGroup !== undefined && { group: config.socketGroup }),
    });
    closers.push(() => serving.close());
    const endMetrics = exportAgent(metrics, () => api.status());
    const { services } = agent;
    exportServices(metrics, { tallies: () => services.model.tallies(), checks: () => services.checks });
    closers.push(async () => endMetrics());
    closers.push(() => port.close());
    await port.listen(config.metrics.listen);
    await agent.start();
    beginReloads();
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

/** What stands around an agent: its configuration, its answers, its metrics. */
function serve(parts: {
  readonly agent: Agent;
  readonly loaded: LoadedConfig;
  readonly log: RootLog;
  readonly metrics: Metrics;
  readonly notices: Notices;
}): { readonly reloader: Reloader; readonly api: AgentApi; readonly port: MetricsPort } {
  const { agent, loaded, log, metrics, notices } = parts;
  const { health } = agent;
  const api = agentApi(agent, () => reloader.view);
  const ready = (): string | undefined => waitingWords(api.status(), agent);
  const port = new MetricsPort({ health, log, metrics, live: () => undefined, ready });
  const prepare: Prepare = (config, changed) => {
    // Also under the same name: whoever rotates it may have moved it away.
    const { fd, unusable } = logTarget(config.log.file);
    if (unusable !== undefined && changed.has('log.file')) throw unusable;
    return async () => {
      if (unusable === undefined) log.moveTo(fd);
      if (unusable === undefined) health.clear('log');
      else health.fail('log', unusable);
      log.level = config.log.level;
      agent.reconfigure(config, changed);
      if (changed.has('metrics.listen')) await port.listen(config.metrics.listen);
      await agent.settled(RELOAD_MS);
    };
  };
  const onBusy = (busy: boolean): void => notices.reloading(busy, agent);
  const reload = agentReload(loaded, { prepare, log });
  const reloader = new Reloader({ files: loaded.files, health, log, onBusy, reload });
  return { reloader, api, port };
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

  /** A service that is not ready yet is started, not reloaded. */
  reloading(busy: boolean, agent: Agent): void {
    if (!this.#ready) return;
    if (busy) this.#service.notifyReloading();
    else this.#service.notifyReady(statusLine(agent));
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

/** Where the log goes: to a file, to standard error when there is none or it cannot be used. */
function logTarget(file: string | undefined): { readonly fd?: number; readonly unusable?: MeshError } {
  if (file === undefined) return {};
  try {
    return { fd: openLogFile(file) };
  } catch (error) {
    return {
      unusable: error instanceof MeshError ? error : new MeshError('OBS-LOG', messageOf(error), { cause: error }),
    };
  }
}
