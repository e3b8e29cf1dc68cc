import { resolve } from 'node:path';
import { Backoff } from '../../core/backoff.ts';
import { type ErrorCode, MeshError, messageOf } from '../../core/errors.ts';
import type { FeedReader } from '../../core/feed.ts';
import { JobGroup, sleep } from '../../core/job.ts';
import type { Leadership } from '../election.ts';
import type { HubContext, HubPart, PartFactory } from '../part.ts';
import { hubFactsOf } from '../workloads/hub-facts.ts';
import { workloadsOf } from '../workloads/part.ts';
import { KUBE_TIMING, KubeClient, type KubeTiming } from './api-client.ts';
import { loadKubeConfig } from './kubeconfig.ts';
import type { Outcome } from './outcome.ts';
import { type KubePolicy, policyOf } from './policy-object.ts';
import { PolicySync } from './policy-sync.ts';
import type { KubernetesFacts } from './records.ts';
import { Reflector } from './reflector.ts';
import { POLICY_RESOURCES, WORKLOAD_RESOURCE } from './resources.ts';
import { type KubeWorkload, workloadOf } from './workload-object.ts';
import { WorkloadSync } from './workload-sync.ts';

export interface KubernetesOptions {
  readonly timing?: KubeTiming;
  readonly retry?: { readonly minMs: number; readonly maxMs: number };
  /** Everything is looked at again after this time, whether something is known to have changed or not. */
  readonly everyMs?: number;
}

const SETTLE_MS = 100;
const EVERY_MS = 60_000;
const RETRY = { minMs: 500, maxMs: 30_000 };
const SHOWN = 20;
const NONE: Outcome = { count: 0, changed: 0, refused: [], conflicts: [] };
const SUBJECT = 'kubernetes';

/**
 * In the hub that leads, when it is given a kubeconfig: policies and external workloads of that cluster become ours. It never
 * waits for Kubernetes: a hub whose cluster is away does everything else, with what it had taken over.
 */
export function kubernetesPart(options: KubernetesOptions = {}): Extract<PartFactory, { where: 'leader' }> {
  return { where: 'leader', create: (context, leader) => new KubernetesPart({ context, leader, options }) };
}

class KubernetesPart implements HubPart {
  readonly name = 'kubernetes';
  readonly #context: HubContext;
  readonly #leader: Leadership;
  readonly #options: KubernetesOptions;
  readonly #jobs: JobGroup;
  readonly #policies: readonly Reflector<KubePolicy>[];
  readonly #workloads: Reflector<KubeWorkload>;
  #policySync: PolicySync | undefined;
  #book: FeedReader<string> | undefined;
  #wakeUp = new AbortController();
  #policyOutcome = NONE;
  #workloadOutcome = NONE;
  #syncedAt: number | undefined;
  #server: string | undefined;

  constructor(given: {
    readonly context: HubContext;
    readonly leader: Leadership;
    readonly options: KubernetesOptions;
  }) {
    this.#context = given.context;
    this.#leader = given.leader;
    this.#options = given.options;
    const { log } = given.context;
    this.#jobs = new JobGroup((name, error) => log.error('background work ended', { name, error }));
    const common = {
      connect: () => this.#connect(),
      onChange: () => this.#wake(),
      retry: this.#options.retry ?? RETRY,
    };
    this.#policies = POLICY_RESOURCES.map(
      (resource) => new Reflector({ ...common, resource, convert: (object) => policyOf(object, resource) }),
    );
    this.#workloads = new Reflector({ ...common, resource: WORKLOAD_RESOURCE, convert: workloadOf });
  }

  async start(): Promise<void> {
    const { config, store } = this.#context;
    if (config.kubernetes.config === undefined) return;
    const leader = this.#leader;
    this.#policySync = new PolicySync({ store, leader, onChange: () => this.#wake() });
    this.#book = hubFactsOf(store).book.read(() => this.#wake());
    for (const reflector of this.#all()) this.#jobs.start(reflector.resource.plural, (signal) => reflector.run(signal));
    this.#jobs.start('kubernetes', (signal) => this.#run(signal));
  }

  async stop(): Promise<void> {
    await this.#jobs.stop();
    this.#policySync?.close();
    this.#book?.close();
    for (const subject of ['', '/objects', '/conflicts', '/store']) this.#context.health.clear(SUBJECT + subject);
  }

  status(): KubernetesFacts {
    const config = this.#context.config.kubernetes.config ?? null;
    const refused = [...this.#policyOutcome.refused, ...this.#workloadOutcome.refused];
    const conflicts = this.#conflicts();
    return {
      config,
      server: this.#server ?? null,
      connected: config !== null && this.#all().every(({ status }) => isReached(status.state)),
      lastSync: this.#syncedAt ?? null,
      policies: this.#policyOutcome.count,
      workloads: this.#workloadOutcome.count,
      resources: config === null ? [] : this.#all().map(resourceFacts),
      refused: refused.slice(0, SHOWN),
      refusedCount: refused.length,
      conflicts: conflicts.slice(0, SHOWN),
      conflictCount: conflicts.length,
    };
  }

  #all(): readonly Reflector<unknown>[] {
    return [...this.#policies, this.#workloads];
  }

  #conflicts(): string[] {
    return [...this.#policyOutcome.conflicts, ...this.#workloadOutcome.conflicts];
  }

  async #connect(): Promise<KubeClient> {
    const access = await loadKubeConfig(resolve(this.#context.config.kubernetes.config ?? ''));
    this.#server = access.server;
    return new KubeClient(access, this.#options.timing ?? KUBE_TIMING);
  }

  #wake(): void {
    this.#wakeUp.abort();
  }

  async #run(signal: AbortSignal): Promise<void> {
    const { everyMs = EVERY_MS, retry = RETRY } = this.#options;
    const backoff = new Backoff(retry);
    const facts = hubFactsOf(this.#context.store);
    const store = { transact: this.#leader.transact };
    const workloads = workloadsOf(this.#context, { facts, store, by: 'kubernetes' });
    const sync = new WorkloadSync({ book: facts.book, workloads });
    while (!signal.aborted) {
      this.#wakeUp = new AbortController();
      this.#book?.drain();
      this.#tellConnection();
      let pause = everyMs;
      try {
        await this.#sync(sync, signal);
        backoff.reset();
        this.#context.health.clear(`${SUBJECT}/store`);
      } catch (error) {
        if (signal.aborted || this.#leader.signal.aborted) return;
        this.#tellFailure(error, backoff.failures);
        pause = backoff.next();
      }
      await sleep(pause, AbortSignal.any([signal, this.#wakeUp.signal]));
      await sleep(SETTLE_MS, signal);
    }
  }

  async #sync(workloads: WorkloadSync, signal: AbortSignal): Promise<void> {
    const sets = this.#policies.map(({ resource, objects }) => ({ kind: resource.kind, objects }));
    this.#policyOutcome = (await this.#policySync?.sync(sets)) ?? NONE;
    const ended = AbortSignal.any([signal, this.#leader.signal]);
    this.#workloadOutcome = await workloads.sync(this.#workloads.objects, ended);
    const changed = [this.#policyOutcome.changed, this.#workloadOutcome.changed];
    if (changed.some((count) => count > 0))
      this.#context.log.info('taken over from Kubernetes', { policies: changed[0], workloads: changed[1] });
    if (this.#all().some(({ status }) => status.listedAt !== undefined)) this.#syncedAt = Date.now();
    this.#tellObjects();
  }

  #tellConnection(): void {
    const error = this.#all().find(({ status }) => status.error !== undefined)?.status.error;
    const trouble = error && { code: error.code, text: error.message, place: error.place };
    this.#context.health.settle(SUBJECT, 'HUB-KUBE-', trouble);
  }

  #tellObjects(): void {
    const refused = [...this.#policyOutcome.refused, ...this.#workloadOutcome.refused];
    const tell = (subject: string, code: ErrorCode, texts: readonly string[]): void => {
      const more = texts.length > 3 ? `, and ${texts.length - 3} more` : '';
      const trouble = texts.length === 0 ? undefined : { text: texts.slice(0, 3).join('; ') + more };
      this.#context.health.check(SUBJECT + subject, code, trouble && { ...trouble, severity: 'warning' });
    };
    const words = refused.map(
      ({ name, reason, kept }) => `${name}${kept ? ' (last good version kept)' : ''}: ${reason}`,
    );
    tell('/objects', 'HUB-KUBE-OBJECT', words);
    tell('/conflicts', 'HUB-KUBE-CONFLICT', this.#conflicts());
  }

  /** Somebody who was faster is no trouble; only what stays is. */
  #tellFailure(error: unknown, failures: number): void {
    const conflict = error instanceof MeshError && error.code === 'HUB-CONFLICT';
    if (conflict && failures < 3) return;
    this.#context.health.set(`${SUBJECT}/store`, { code: 'HUB-KUBE-WRITE', text: messageOf(error) });
  }
}

function isReached(state: string): boolean {
  return state === 'following' || state === 'missing';
}

function resourceFacts({ resource, status, size }: Reflector<unknown>): KubernetesFacts['resources'][number] {
  const { state, listedAt, heardAt, error } = status;
  return {
    kind: resource.kind,
    state,
    objects: size,
    listedAt: listedAt ?? null,
    heardAt: heardAt ?? null,
    error: error === undefined ? null : `${error.message} (${error.code})`,
  };
}
