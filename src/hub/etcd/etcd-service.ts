import type { Health } from '../../api/health.ts';
import { MeshError, messageOf } from '../../core/errors.ts';
import { sleep } from '../../core/job.ts';
import { CommandError } from '../../host/command.ts';
import { ServiceProcess, type ServiceProcessStatus } from '../../host/service-process.ts';
import type { EtcdOptions } from '../../kvstore/etcd-config.ts';
import { Member, type MemberStatus } from '../../kvstore/maintenance.ts';
import { openSession } from '../../kvstore/session.ts';
import type { Log } from '../../observe/log.ts';
import type { HubConfig } from '../config.ts';
import type { HubFolder } from '../folder.ts';
import { etcdArguments, ownEndpoint } from './arguments.ts';
import { type DataSetRecord, openDataSet, saveDataSet } from './data-set.ts';
import { logEtcdLine } from './log-line.ts';
import { bootstrapAccess } from './machine-access.ts';

export interface EtcdServiceOptions {
  readonly config: HubConfig;
  readonly folder: HubFolder;
  readonly log: Log;
  readonly health: Health;
}

const POLL_MS = 100;
/** An etcd that has not answered by then is told as a trouble. */
const LATE_MS = 5000;
/** It is on this machine. */
const ASK_TIMING = { connectMs: 1000, requestMs: 3000 };
const RETRY_MAX_MS = 5000;
const SUBJECT = 'etcd';

/**
 * The hub's own etcd:
 *
 *   data there? ─▶ start ─▶ answers ─▶ users and roles, access control on
 *       └ lost: refuse
 */
export class EtcdService {
  readonly #options: EtcdServiceOptions;
  readonly #process: ServiceProcess;
  readonly #abort = new AbortController();
  #record: DataSetRecord | undefined;
  #stopping = false;

  constructor(options: EtcdServiceOptions) {
    this.#options = options;
    const { folder, config, log } = options;
    this.#process = new ServiceProcess({
      command: 'etcd',
      arguments: () => {
        const { token = '' } = this.#record ?? {};
        return etcdArguments({ config, folder, token });
      },
      pidFile: folder.etcdPid,
      onLine: (line) => logEtcdLine(log, line),
      onChange: () => this.#changed(),
      retryMaxMs: RETRY_MAX_MS,
    });
  }

  get process(): ServiceProcessStatus {
    return this.#process.status;
  }

  /**
   * Resolves when it answers, with access control on. As long as it cannot run it is tried again, and told by `health`.
   * @throws MeshError HUB-ETCD-DATA, HUB-FILES, HUB-ETCD (not installed), KVS-AUTH
   */
  async start(): Promise<void> {
    const { folder, config, log } = this.#options;
    this.#record = await openDataSet(folder);
    try {
      await this.#process.start();
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      throw new MeshError('HUB-ETCD', error.message, { cause: error });
    }
    const status = await this.#answers();
    if (status === undefined) return;
    await this.#bootstrap();
    if (this.#record.clusterId !== undefined && this.#record.clusterId !== status.clusterId)
      log.warn('the etcd has another data set than before; everyone lists it again', {
        before: this.#record.clusterId,
        now: status.clusterId,
      });
    this.#record = { ...this.#record, clusterId: status.clusterId };
    await saveDataSet(folder, this.#record);
    log.info('etcd runs', { listen: config.etcd.client, version: status.version, clusterId: status.clusterId });
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    this.#abort.abort();
    await this.#process.stop();
  }

  async #bootstrap(): Promise<void> {
    const { config } = this.#options;
    const session = openSession({ etcd: async () => this.#as() });
    try {
      await bootstrapAccess(session, config.cluster.name);
    } finally {
      await session.close();
    }
  }

  #as(): EtcdOptions {
    const { folder, config } = this.#options;
    const { internal, admin } = folder;
    return { endpoints: [ownEndpoint(config)], ca: internal.cert, cert: admin.cert, key: admin.key };
  }

  /** Undefined when it was stopped before. */
  async #answers(): Promise<MemberStatus | undefined> {
    const { health } = this.#options;
    const { signal } = this.#abort;
    const began = performance.now();
    const running = (): boolean => this.#process.status.state === 'running';
    while (!signal.aborted) {
      try {
        const status = running() ? await this.#ask(signal) : undefined;
        if (status !== undefined && status.leaderId !== '0' && running()) {
          health.clear(SUBJECT, 'HUB-ETCD');
          return status;
        }
      } catch (error) {
        if (performance.now() - began > LATE_MS && running())
          health.set(SUBJECT, { code: 'HUB-ETCD', text: `it does not answer: ${messageOf(error)}` });
      }
      await sleep(POLL_MS, signal);
    }
    return undefined;
  }

  async #ask(signal: AbortSignal): Promise<MemberStatus> {
    const member = await Member.connect(ownEndpoint(this.#options.config), this.#as(), signal, ASK_TIMING);
    try {
      return await member.status();
    } finally {
      member.close();
    }
  }

  #changed(): void {
    const { health, log } = this.#options;
    const { state, lastExit, pid } = this.#process.status;
    if (state === 'running') {
      log.debug('etcd is started', { pid });
      health.clear(SUBJECT, 'HUB-ETCD-PORT');
      // Whether it is well is told when it answers.
      this.#watchAnswer();
    } else if (state === 'waiting' && lastExit !== undefined && !this.#stopping) {
      const words = lastExit.lastLines.map(essence).filter((line) => line !== '');
      const text = [lastExit.reason, ...words.slice(-2)].join(': ');
      const taken = /address already in use/.test(lastExit.lastLines.join('\n'));
      health.set(SUBJECT, { code: taken ? 'HUB-ETCD-PORT' : 'HUB-ETCD', text });
      log.error('etcd ended', { reason: lastExit.reason, words });
    }
  }

  #answering = false;

  /** After every start, also those that nobody waits for. */
  #watchAnswer(): void {
    if (this.#answering) return;
    this.#answering = true;
    this.#answers()
      .catch(() => undefined)
      .finally(() => {
        this.#answering = false;
      });
  }
}

/** The message of a line of etcd's log. */
function essence(line: string): string {
  const fields = /"(?:msg|error)":"((?:[^"\\]|\\.)*)"/g;
  const found = [...line.matchAll(fields)].map((match) => match[1]);
  return found.length > 0 ? found.join(': ') : line.slice(0, 300);
}
