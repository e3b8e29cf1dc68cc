import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Health } from '../../api/health.ts';
import type { FeedReader } from '../../core/feed.ts';
import { JobGroup, sleep } from '../../core/job.ts';
import type { ServiceBackend } from './backends.ts';
import { publishedKey, publishedService } from './publication.ts';
import type { ServiceTable } from './service-table.ts';

export interface ServicePublisherOptions {
  readonly table: ServiceTable;
  readonly cluster: { readonly name: string; readonly id: number };
  /** Puts a key of ours among those that are published, or takes it away. */
  readonly put: (key: string, value: string | undefined) => void;
  /** Workloads that a service selects now: what they report of it counts from now on. */
  readonly onSelected: (workloads: readonly string[]) => void;
  readonly health: Pick<Health, 'check'>;
  readonly onProblem: (message: string) => void;
}

/** How long changes gather: a rolling change of a fleet must not write a service for each machine. */
const COLLECT_MS = 50;
/** A service is written no faster, in bytes a millisecond: etcd keeps each version of a large value for an hour. */
const BYTES_PER_MS = 200;
const IDLE_MS = 3_600_000;
const SUBJECT = 'services';
const NAMED = 3;

/** Publishes the services on machines as those of the hub's cluster, while this hub leads. */
export class ServicePublisher {
  readonly #options: ServicePublisherOptions;
  readonly #jobs: JobGroup;
  /** What is published, by key of the service. */
  readonly #published = new Map<string, string>();
  readonly #selected = new Map<string, string>();
  readonly #overfull = new Map<string, number>();
  readonly #idle = new Map<string, number>();
  /** When a service may be written again, monotonic milliseconds, and those that wait for it. */
  readonly #nextAt = new Map<string, number>();
  readonly #waiting = new Set<string>();
  #reader: FeedReader<string> | undefined;
  #wakeUp = new AbortController();

  constructor(options: ServicePublisherOptions) {
    this.#options = options;
    this.#jobs = new JobGroup((name, error) => options.onProblem(`${name} ended: ${String(error)}`));
  }

  get size(): number {
    return this.#published.size;
  }

  /** Everything of before is put when it returns; what follows comes by itself. */
  start(): void {
    const { table } = this.#options;
    const reader = table.read(() => this.#wakeUp.abort());
    this.#reader = reader;
    for (const { namespace, name } of table.services()) this.#publish(`${namespace}/${name}`);
    this.#tell();
    this.#jobs.start('services', (signal) => this.#run(reader, signal));
  }

  async stop(): Promise<void> {
    this.#reader?.close();
    await this.#jobs.stop();
    for (const code of ['HUB-SERVICE-LIMIT', 'HUB-SERVICE-IDLE', 'HUB-SERVICE-OBJECT'] as const)
      this.#options.health.check(SUBJECT, code, undefined);
  }

  async #run(reader: FeedReader<string>, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      this.#wakeUp = new AbortController();
      if (!reader.pending) await sleep(this.#pause(), AbortSignal.any([signal, this.#wakeUp.signal]));
      await sleep(COLLECT_MS, signal);
      for (const key of reader.drain()) this.#waiting.add(key);
      for (const key of this.#waiting) {
        if (signal.aborted) return;
        if ((this.#nextAt.get(key) ?? 0) > performance.now()) continue;
        this.#waiting.delete(key);
        this.#publish(key);
        await nextTurn();
      }
      this.#tell();
    }
  }

  /** Until the first of those that wait may be written. */
  #pause(): number {
    const due = [...this.#waiting].map((key) => (this.#nextAt.get(key) ?? 0) - performance.now());
    return Math.max(0, Math.min(IDLE_MS, ...due));
  }

  #publish(key: string): void {
    const { table, cluster, put } = this.#options;
    const service = table.get(key);
    if (service === undefined) {
      this.#withdraw(key);
      return;
    }
    const backends = table.backends(key);
    const active = backends.flatMap(({ state, address }) => (state === 'active' && address ? [address] : []));
    const { value, omitted } = publishedService(service, { cluster, active: [...new Set(active)] });
    if (omitted > 0) this.#overfull.set(key, omitted);
    else this.#overfull.delete(key);
    // A service that waits for its first machine is no trouble.
    const machines = new Set(backends.map(({ workload }) => workload)).size;
    if (active.length === 0 && machines > 0) this.#idle.set(key, machines);
    else this.#idle.delete(key);
    if (this.#published.get(key) !== value) {
      put(publishedKey(cluster.name, service), value);
      this.#nextAt.set(key, performance.now() + value.length / BYTES_PER_MS);
    }
    this.#published.set(key, value);
    this.#select(key, backends);
  }

  #withdraw(key: string): void {
    const { cluster, put } = this.#options;
    const [namespace = '', name = ''] = key.split('/');
    if (this.#published.delete(key)) put(publishedKey(cluster.name, { namespace, name }), undefined);
    this.#selected.delete(key);
    this.#overfull.delete(key);
    this.#idle.delete(key);
    this.#nextAt.delete(key);
  }

  #select(key: string, backends: readonly ServiceBackend[]): void {
    const names = [...new Set(backends.map(({ workload }) => workload))];
    const text = names.join(' ');
    if (this.#selected.get(key) === text) return;
    const before = new Set(this.#selected.get(key)?.split(' '));
    this.#selected.set(key, text);
    this.#options.onSelected(names.filter((name) => !before.has(name)));
  }

  #tell(): void {
    const { health, table } = this.#options;
    const warn = (text: string | undefined) =>
      text === undefined ? undefined : { text, severity: 'warning' as const };
    const [first] = table.unreadable;
    health.check(SUBJECT, 'HUB-SERVICE-OBJECT', warn(first && `${first[0]}: ${first[1]}`));
    const overfull = named(this.#overfull, (count) => `${count} backends have no room`);
    health.check(SUBJECT, 'HUB-SERVICE-LIMIT', warn(overfull));
    const idle = named(this.#idle, (count) => `none of ${count} serves`);
    health.check(SUBJECT, 'HUB-SERVICE-IDLE', warn(idle));
  }
}

function named(found: ReadonlyMap<string, number>, words: (count: number) => string): string | undefined {
  if (found.size === 0) return undefined;
  const some = [...found].slice(0, NAMED).map(([key, count]) => `${key}: ${words(count)}`);
  return some.join('; ') + (found.size > NAMED ? `; and ${found.size - NAMED} more` : '');
}
