import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type AgentClient, openClient } from '../../src/api/client.ts';
import type { HealthRecord, StatusRecord } from '../../src/api/types.ts';
import { type CommandResult, Daemon, execute } from './daemon.ts';
import { until } from './namespace.ts';
import type { Place } from './place.ts';

export interface AgentOptions {
  readonly place: Place;
  /** Holds configuration, state, socket and policies. */
  readonly folder: string;
  /** Besides the folders, in the form of the configuration file. */
  readonly config: Readonly<Record<string, unknown>>;
}

/** A real agent on a machine of the lab, over as many runs as a test needs, and its command line. */
export class Agent extends Daemon {
  readonly configFile: string;
  readonly stateDir: string;
  readonly socket: string;
  readonly policies: string;
  readonly clustermesh: string;
  /** The local API, without the detour over the command line. */
  readonly api: AgentClient;
  readonly #config: Readonly<Record<string, unknown>>;

  constructor({ place, folder, config }: AgentOptions) {
    super(place);
    this.configFile = join(folder, 'config.yaml');
    this.stateDir = join(folder, 'state');
    this.socket = join(folder, 'agent.sock');
    this.policies = join(folder, 'policies.d');
    this.clustermesh = join(this.stateDir, 'clustermesh');
    this.api = openClient({ socket: this.socket });
    mkdirSync(this.policies, { recursive: true });
    mkdirSync(this.clustermesh, { recursive: true, mode: 0o700 });
    // Probes would be seen by tests that count packets.
    this.#config = { policies: this.policies, health: { enabled: false }, ...config };
    this.configure({});
  }

  /** Writes the configuration file: that of the beginning with these keys over it. */
  configure(config: Readonly<Record<string, unknown>>): void {
    // JSON is YAML.
    writeFileSync(this.configFile, `${JSON.stringify({ ...this.#config, ...config }, null, 2)}\n`);
  }

  /** Starts the daemon; does not wait for anything. */
  start(): void {
    this.launch([...this.program, 'run', ...this.#where(), '--config', this.configFile]);
  }

  /** One command line against this agent. */
  run(...args: string[]): Promise<CommandResult> {
    const [command, ...program] = this.program;
    return execute(command, [...program, ...args, ...this.#where(), '--config', this.configFile]);
  }

  /** The same, run on the machine itself: for commands that reach out to others. */
  runThere(...args: string[]): Promise<CommandResult> {
    return this.executeThere([...args, ...this.#where(), '--config', this.configFile]);
  }

  /** The answer of a command in JSON. */
  async json<Answer>(...args: string[]): Promise<Answer> {
    const { code, stdout, stderr } = await this.run(...args, '-o', 'json');
    try {
      return JSON.parse(stdout) as Answer;
    } catch {
      throw new Error(`mesh-agent ${args.join(' ')}: exit ${code}\n${stdout}${stderr}\n${this.tail()}`);
    }
  }

  status(): Promise<StatusRecord> {
    return this.api.status();
  }

  /** Waits until the status is as described; fails with the last one. */
  async untilStatus(
    what: string,
    condition: (status: StatusRecord) => boolean,
    timeoutMs = 20_000,
  ): Promise<StatusRecord> {
    let last: StatusRecord | undefined;
    let refusal: unknown;
    try {
      await until(
        what,
        async () => {
          if (!this.running) throw new Error(`the agent ended while waiting for: ${what}`);
          // Not yet, or not any more: the agent may be on its way up.
          last = await this.status().catch((error: unknown) => {
            refusal = error;
            return undefined;
          });
          return last !== undefined && condition(last);
        },
        timeoutMs,
      );
    } catch (error) {
      const seen = last === undefined ? String(refusal) : JSON.stringify(last, null, 1);
      throw new Error(`${String(error)}\nstatus: ${seen}\n${this.tail()}`);
    }
    return last as StatusRecord;
  }

  /** Waits until the health has a record of this code. */
  async untilHealth(code: string, subject?: string): Promise<HealthRecord> {
    const matches = (record: HealthRecord): boolean =>
      record.code === code && (subject === undefined || record.subject === subject);
    const status = await this.untilStatus(`health says ${code}`, ({ health }) => health.some(matches));
    return status.health.find(matches) as HealthRecord;
  }

  /** Joined, in sync, and what the policies say is in the kernel. */
  untilReady(timeoutMs = 30_000): Promise<StatusRecord> {
    const ready = ({ registration, datapath, clusters }: StatusRecord): boolean =>
      registration.state === 'registered' && datapath.applied && clusters.every((cluster) => cluster.ready);
    return this.untilStatus('the agent is joined and enforces', ready, timeoutMs);
  }

  /** Puts a policy file in place, whole at once. */
  policy(file: string, text: string): void {
    writeFileSync(join(this.policies, `.${file}.new`), text);
    renameSync(join(this.policies, `.${file}.new`), join(this.policies, file));
  }

  removePolicy(file: string): void {
    rmSync(join(this.policies, file));
  }

  /** Puts the etcd configuration of a remote cluster in place. */
  cluster(name: string, etcdConfig: string): void {
    writeFileSync(join(this.stateDir, `.${name}.new`), etcdConfig);
    renameSync(join(this.stateDir, `.${name}.new`), join(this.clustermesh, name));
  }

  removeCluster(name: string): void {
    rmSync(join(this.clustermesh, name));
  }

  #where(): string[] {
    return ['--state-dir', this.stateDir, '--socket', this.socket];
  }
}
