import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { askRecord } from '../../src/api/ask.ts';
import { hubFolder } from '../../src/hub/folder.ts';
import type { HubStatusRecord } from '../../src/hub/types.ts';
import { type CommandResult, Daemon } from './daemon.ts';
import { until } from './namespace.ts';
import type { Place } from './place.ts';
import type { DualAddress } from './topology.ts';

/** The cluster of the hub in the lab. */
export const VMS = { name: 'vms', id: 100 } as const;
export const POOL = '10.192.0.0/16';

export interface HubHostOptions {
  readonly place: Place & DualAddress;
  /** Holds everything of the hub. */
  readonly folder: string;
  readonly pool?: string;
  /** For stories that cannot wait for days: the parts of the hub with other times, from the sources. */
  readonly hurry?: { readonly certificateSeconds: number; readonly graceMs: number };
}

/** A host with a hub: the program under test in a namespace of its own, over as many runs as a test needs. */
export class HubHost extends Daemon<Place & DualAddress> {
  readonly stateDir: string;
  readonly socket: string;
  readonly #options: HubHostOptions;

  constructor(options: HubHostOptions) {
    const { place, folder } = options;
    super(place);
    this.#options = options;
    this.stateDir = join(folder, 'state');
    this.socket = join(folder, 'hub.sock');
    mkdirSync(folder, { recursive: true });
  }

  /** `hub init`, and what is given beside the cluster. */
  async init(...more: string[]): Promise<string> {
    const { pool = POOL } = this.#options;
    const cluster = ['--cluster-name', VMS.name, '--cluster-id', String(VMS.id), '--pool', pool];
    return this.must('init', ...cluster, '--name', this.place.ipv4, ...more);
  }

  /** Starts the daemon; does not wait for anything. */
  start(): void {
    const { hurry } = this.#options;
    this.launch(hurry === undefined ? [...this.program, 'hub', 'run', ...this.#where()] : this.#inAHurry(hurry));
  }

  /** Waits until it has ended by itself; its exit code. */
  async untilEnded(): Promise<number | null> {
    await until('the hub ends', () => !this.running, 30_000);
    return this.exit?.code ?? null;
  }

  /** One command line, on the host of the hub: `hub <args>`. */
  run(...args: string[]): Promise<CommandResult> {
    return this.executeThere(['hub', ...args, ...this.#where()]);
  }

  /** The same, and it must do well: what it printed. */
  async must(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.run(...args);
    if (code !== 0) throw new Error(`hub ${args.join(' ')}: exit ${code}\n${stdout}${stderr}\n${this.tail()}`);
    return stdout;
  }

  async json<Answer>(...args: string[]): Promise<Answer> {
    const { code, stdout, stderr } = await this.run(...args, '-o', 'json');
    try {
      return JSON.parse(stdout) as Answer;
    } catch {
      throw new Error(`hub ${args.join(' ')}: exit ${code}\n${stdout}${stderr}\n${this.tail()}`);
    }
  }

  /** One request at its socket, without the detour over the command line. */
  ask<Answer>(path: string): Promise<Answer> {
    return askRecord<Answer>({ socket: this.socket, whom: 'hub' }, path);
  }

  status(): Promise<HubStatusRecord> {
    return this.ask('/v1/status');
  }

  async untilStatus(
    what: string,
    condition: (status: HubStatusRecord) => boolean,
    timeoutMs = 30_000,
  ): Promise<HubStatusRecord> {
    let last: HubStatusRecord | undefined;
    await until(
      `hub status: ${what}`,
      async () => {
        if (!this.running) throw new Error('the hub ended');
        last = await this.status().catch(() => undefined);
        return last !== undefined && condition(last);
      },
      timeoutMs,
    ).catch((error: unknown) => {
      throw new Error(`${String(error)}\n${JSON.stringify(last, null, 1)}\n${this.tail()}`);
    });
    return last as HubStatusRecord;
  }

  /** It leads, every part runs, and what it publishes is complete. */
  untilLeading(timeoutMs = 30_000): Promise<HubStatusRecord> {
    return this.untilStatus('it leads and is complete', leadsCompletely, timeoutMs);
  }

  /** A command of etcd's own tool, as the administrator of the own etcd. */
  etcdctl(...args: string[]): string {
    const { internal, admin } = hubFolder(this.stateDir);
    const how = ['--cacert', internal.cert, '--cert', admin.cert, '--key', admin.key];
    return this.place.namespace.run('etcdctl', '--endpoints', 'https://127.0.0.1:2381', ...how, ...args);
  }

  #inAHurry({ certificateSeconds, graceMs }: NonNullable<HubHostOptions['hurry']>): string[] {
    const script = join(import.meta.dirname, 'hub-run.ts');
    const args = [this.stateDir, this.socket, String(certificateSeconds), String(graceMs)];
    return [process.execPath, '--no-warnings', script, ...args];
  }

  #where(): string[] {
    return ['--state-dir', this.stateDir, '--socket', this.socket];
  }
}

export function leadsCompletely({ leader, parts }: HubStatusRecord): boolean {
  const registration = parts.find(({ name }) => name === 'registration')?.facts;
  const complete = registration !== undefined && 'complete' in registration && registration.complete === true;
  return leader?.here === true && complete && parts.every(({ state }) => state === 'running');
}
