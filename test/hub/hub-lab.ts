import { Registry } from 'prom-client';
import { Health } from '../../src/api/health.ts';
import type { HealthRecord } from '../../src/api/types.ts';
import { HubRoutes } from '../../src/hub/api.ts';
import { type HubConfig, parseHubConfig } from '../../src/hub/config.ts';
import { connectionsPart } from '../../src/hub/connections/part.ts';
import { Election } from '../../src/hub/election.ts';
import type { MachineAccess } from '../../src/hub/etcd/machine-access.ts';
import { ConnectedUsers } from '../../src/hub/guard/connected-users.ts';
import type { HubStore } from '../../src/hub/hub-store.ts';
import type { HubContext, HubPart, PartFactory } from '../../src/hub/part.ts';
import { type RegistrationTiming, registrationPartWith } from '../../src/hub/registration/part.ts';
import { servicesPart } from '../../src/hub/services/part.ts';
import { type HubFacts, hubFactsOf } from '../../src/hub/workloads/hub-facts.ts';
import { workloadsPart } from '../../src/hub/workloads/part.ts';
import type { WorkloadRecord } from '../../src/hub/workloads/records.ts';
import { openWriterStore } from '../../src/kvstore/writer-store.ts';
import { silentLog } from '../../src/observe/log.ts';
import type { Etcd } from '../lab/etcd.ts';

const CONFIG = `
cluster: {name: vms, id: 100}
pools: [10.192.0.0/16, "fd00:192::/64"]
names: [hub.example.com, 192.0.2.1]
`;

export interface HubLabOptions {
  readonly etcd: Etcd;
  readonly config?: string;
  readonly timing?: RegistrationTiming;
  readonly ttlSeconds?: number;
  /** Runs while it leads, instead of registration. */
  readonly part?: Extract<PartFactory, { where: 'leader' }>;
}

/** The parts of a hub that keep workloads, on a plain etcd: several of them on one etcd are several hubs. */
export class HubLab {
  readonly store: HubStore;
  readonly config: HubConfig;
  readonly api = new HubRoutes();
  readonly revoked: string[] = [];
  /** Who is connected, for lack of a guard. */
  readonly users = new ConnectedUsers();
  readonly id = Math.random().toString(16).slice(2);
  readonly health: Health;
  readonly #registry = new Registry();
  readonly #collectors: (() => void)[] = [];
  readonly #everywhere: readonly HubPart[];
  readonly #options: HubLabOptions;
  #election: Election | undefined;
  #led: HubPart | undefined;

  constructor(options: HubLabOptions) {
    this.#options = options;
    this.config = parseHubConfig(options.config ?? CONFIG, 'hub.yaml');
    this.store = openWriterStore({
      etcd: async () => ({ endpoints: options.etcd.endpoints }),
      timing: { retryMinMs: 50, retryMaxMs: 300 },
    });
    this.health = new Health(() => undefined);
    this.#everywhere = [workloadsPart, connectionsPart, servicesPart].map((part) => part.create(this.#context()));
  }

  static async start(options: HubLabOptions): Promise<HubLab> {
    const hub = new HubLab(options);
    for (const part of hub.#everywhere) await part.start();
    hub.campaign();
    return hub;
  }

  get facts(): HubFacts {
    return hubFactsOf(this.store);
  }

  get leading(): boolean {
    return this.#led !== undefined;
  }

  /** Of the leading part. */
  get status(): {
    complete: boolean;
    machines: Record<string, number>;
    waiting: number;
    pendingKeys: number;
    refused: number;
  } {
    return (this.#led?.status() ?? { complete: false, waiting: -1 }) as never;
  }

  /** The leading part. */
  get led(): HubPart | undefined {
    return this.#led;
  }

  get troubles(): HealthRecord[] {
    return this.health.list();
  }

  campaign(): void {
    const { timing = {}, ttlSeconds = 3, part: led = registrationPartWith(timing) } = this.#options;
    this.#election = new Election({
      store: this.store,
      id: this.id,
      ttlSeconds,
      onChange: () => undefined,
      onProblem: () => undefined,
      lead: async (leader) => {
        const part = led.create(this.#context(), leader);
        try {
          await part.start();
          this.#led = part;
          if (!leader.signal.aborted)
            await new Promise((resolve) => leader.signal.addEventListener('abort', resolve, { once: true }));
        } finally {
          this.#led = undefined;
          await part.stop();
        }
      },
    });
  }

  /** One request of the socket. */
  async ask<T = WorkloadRecord>(method: string, path: string, body?: unknown): Promise<T> {
    const answer = await this.api.answer({
      method,
      target: `/v1/${path}`,
      body: Buffer.from(body === undefined ? '' : JSON.stringify(body)),
    } as never);
    if (answer.kind === 'record') return answer.record as T;
    const list: unknown[] = [];
    if (answer.kind === 'list') for await (const each of answer.records as Iterable<unknown>) list.push(each);
    return list as T;
  }

  metrics(): Promise<string> {
    for (const collect of this.#collectors) collect();
    return this.#registry.metrics();
  }

  create(name: string, more: object = {}): Promise<WorkloadRecord> {
    return this.ask('POST', 'workloads', { name, ...more });
  }

  get(name: string): Promise<WorkloadRecord> {
    return this.ask('GET', `workloads/${name}`);
  }

  async stop(): Promise<void> {
    await this.#election?.stop();
    for (const part of this.#everywhere) await part.stop();
    await this.store.close();
  }

  #context(): HubContext {
    const access: Pick<MachineAccess, 'revoke'> = {
      revoke: async (name) => {
        this.revoked.push(name);
        await this.store.remove(`cilium/state/noderegister/v1/${name}`);
      },
    };
    return {
      id: this.id,
      users: this.users,
      config: this.config,
      store: this.store,
      health: this.health,
      log: silentLog,
      api: this.api,
      access,
      pki: { ca: {} },
      metrics: { registry: this.#registry, onScrape: (collect: () => void) => this.#collectors.push(collect) },
    } as unknown as HubContext;
  }
}
