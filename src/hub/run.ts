import { MetricsPort } from '../api/metrics-port.ts';
import { Reloader } from '../api/reloader.ts';
import { type ApiServer, serveSocket } from '../api/server.ts';
import { build } from '../host/build.ts';
import { crashOnSurprise, onReload, stopSignal } from '../host/daemon.ts';
import { openServiceManager } from '../host/systemd.ts';
import { exportStoreRequests } from '../kvstore/request-metrics.ts';
import { type Log, openLog } from '../observe/log.ts';
import { openMetrics } from '../observe/metrics.ts';
import { HUB_BODY_BYTES } from './api.ts';
import type { HubConfig } from './config.ts';
import type { HubFolder } from './folder.ts';
import { Hub } from './hub.ts';
import { openHubPki } from './hub-pki.ts';
import { lockHub } from './lock.ts';
import { exportHub } from './metrics.ts';
import type { PartFactory } from './part.ts';
import { HUB_PARTS } from './parts.ts';
import { hubReload } from './reload.ts';

export interface RunHubOptions {
  readonly config: HubConfig;
  readonly folder: HubFolder;
  readonly socket: string;
  readonly parts?: readonly PartFactory[];
}

/** A hub that cannot even end is ended; its etcd has 10 s of this. */
const STOP_MS = 30_000;
const LINGER_MS = 500;

/**
 * Runs the hub until it is told to stop. @returns the exit code
 * @throws MeshError HUB-RUNNING, HUB-FILES, PKI-* before it has begun
 */
export async function runHub(options: RunHubOptions): Promise<number> {
  // Before any program is started: none may speak to the service manager in our name.
  const service = openServiceManager();
  process.title = 'mesh-agent hub';
  const { config, folder } = options;
  const unlock = lockHub(folder);
  const metrics = openMetrics(build);
  const rootLog = openLog({ ...config.log, sumsUp: true, onProblem: (level, room) => metrics.logged(level, room) });
  const log = rootLog.child('hub');
  const closers: (() => Promise<void>)[] = [];
  const stopping = new AbortController();
  try {
    const pki = await openHubPki(folder, config);
    log.info('the hub starts', { version: build.version, commit: build.commit, cluster: config.cluster });
    crashOnSurprise((error) => {
      log.error('unexpected error: the hub ends', { error });
      rootLog.flush();
    });
    let ready = false;
    const stopped = stopSignal((signal) => log.info(`${signal} received`)).then(() => stopping.abort());
    const hub = new Hub({
      config,
      pki,
      log,
      metrics,
      parts: options.parts ?? HUB_PARTS,
      onChange: () => service.notifyStatus(hub.line),
      configuration: () => reloader.view,
    });
    const waiting = (): string | undefined => (hub.connected ? undefined : hub.line);
    const port = new MetricsPort({ health: hub.health, log, metrics, live: () => undefined, ready: waiting });
    const reloader = new Reloader({
      files: [folder.config],
      health: hub.health,
      log,
      onBusy(busy) {
        if (!ready) return;
        if (busy) service.notifyReloading();
        else service.notifyReady(hub.line);
      },
      reload: hubReload(folder, async (next, changed) => {
        rootLog.level = next.log.level;
        if (changed.includes('metrics.listen')) await port.listen(next.metrics.listen);
      }),
    });
    const beginReloads = onReload(() => reloader.request());
    const socket = await serve(hub, { path: options.socket, log: log.child('api') });
    closers.push(() => socket.close());
    exportHub(metrics, () => hub.status());
    const endMetrics = exportStoreRequests(metrics);
    closers.push(async () => endMetrics());
    closers.push(() => port.close());
    await port.listen(config.metrics.listen);
    closers.push(() => hub.stop());
    beginReloads();
    await Promise.race([hub.start(stopping.signal), stopped]);
    if (!stopping.signal.aborted) {
      ready = true;
      service.notifyReady(hub.line);
      service.startWatchdog();
      log.info('the hub is ready');
    }
    await stopped;
    service.notifyStopping();
    log.info('the hub stops');
    return 0;
  } catch (error) {
    log.error('the hub cannot run', { error });
    return 1;
  } finally {
    const late = setTimeout(() => process.exit(1), STOP_MS);
    for (const close of closers.reverse())
      await close().catch((error: unknown) => log.warn('a part did not stop', { error }));
    metrics.close();
    unlock();
    await rootLog.close();
    clearTimeout(late);
    // An attempt to connect that nobody waits for any more must not keep the process.
    setTimeout(() => process.exit(), LINGER_MS).unref();
  }
}

function serve(hub: Hub, options: { path: string; log: Log }): Promise<ApiServer> {
  return serveSocket(
    { socket: options.path, log: options.log, limits: { bodyBytes: HUB_BODY_BYTES } },
    hub.routes.answer,
  );
}
