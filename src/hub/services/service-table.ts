import { Feed, type FeedReader } from '../../core/feed.ts';
import { sleep } from '../../core/job.ts';
import { decodeMachineService, type MachineService } from '../../kvstore/codec/machine-service.ts';
import { MACHINE_SERVICES_PREFIX } from '../../kvstore/paths.ts';
import type { Store } from '../../kvstore/store.ts';
import { selectsMachine } from '../../service/selection.ts';
import type { MachineRecord } from '../registration/machine-record.ts';
import { Mirror } from '../workloads/mirror.ts';
import { registrationLabels } from '../workloads/workload.ts';
import type { KnownWorkload, WorkloadBook } from '../workloads/workload-book.ts';
import { backendsOf, type ServiceBackend, type ServiceBackendState } from './backends.ts';

export interface KnownService extends MachineService {
  /** Modification revision of the object. */
  readonly revision: number;
}

export interface ServiceTableOptions {
  readonly store: Pick<Store, 'watchPrefix'>;
  /** Of the hub. */
  readonly cluster: string;
  readonly book: WorkloadBook;
  readonly record: (workload: string) => MachineRecord | undefined;
}

const LEFT_MS = 5000;
const LOOK_MS = 10;

interface Row {
  service: KnownService;
  /** By workload. */
  readonly backends: Map<string, readonly ServiceBackend[]>;
  readonly counts: Map<ServiceBackendState, number>;
}

/**
 * Services on machines with their backends, in every hub, as the store has them: level-triggered from objects, workloads and
 * records of machines. A change of one machine costs the services that select it, found by one label of their selectors.
 */
export class ServiceTable {
  readonly #options: ServiceTableOptions;
  readonly #mirror: Mirror<KnownService>;
  readonly #rows = new Map<string, Row>();
  /** `<namespace> <key>=<value>` of the first label of a selector, to keys of services. */
  readonly #byLabel = new Map<string, Set<string>>();
  /** Frontend addresses, to the service that has each. */
  readonly #addresses = new Map<string, string>();
  readonly #ofWorkload = new Map<string, ReadonlySet<string>>();
  /** Of a workload as it is: each service that comes asks for those of all. */
  readonly #labels = new WeakMap<KnownWorkload, ReadonlyMap<string, string>>();
  readonly #feed = new Feed<string>();
  readonly #workloads: FeedReader<string>;

  constructor(options: ServiceTableOptions) {
    const { store, book } = options;
    this.#options = options;
    this.#mirror = new Mirror<KnownService>({
      store,
      prefix: MACHINE_SERVICES_PREFIX,
      decode: (key, value, revision) => ({ ...decodeMachineService(key, value), revision }),
      onChange: (key) => this.#serviceChanged(key),
    });
    this.#workloads = book.read(() => queueMicrotask(() => this.#drain()));
  }

  get size(): number {
    return this.#rows.size;
  }

  /** Objects that cannot be read, by key, each with the reason. */
  get unreadable(): ReadonlyMap<string, string> {
    return this.#mirror.unreadable;
  }

  get(key: string): KnownService | undefined {
    return this.#rows.get(key)?.service;
  }

  services(): Iterable<KnownService> {
    return [...this.#rows.values()].map(({ service }) => service);
  }

  /** Sorted by workload. */
  backends(key: string): readonly ServiceBackend[] {
    const row = this.#rows.get(key);
    if (row === undefined) return [];
    const names = [...row.backends.keys()].sort();
    return names.flatMap((name) => row.backends.get(name) ?? []);
  }

  /** Machines that get new connections of a service, in no order. */
  active(key: string): string[] {
    const row = this.#rows.get(key);
    if (row === undefined) return [];
    return [...row.backends].flatMap(([name, backends]) =>
      backends.some(({ state }) => state === 'active') ? [name] : [],
    );
  }

  /** How many backends a service has, by state; known without a look at them. */
  counts(key: string): ReadonlyMap<ServiceBackendState, number> {
    return this.#rows.get(key)?.counts ?? NO_COUNTS;
  }

  /** Which service has this address as its frontend. */
  ownerOf(address: string): string | undefined {
    return this.#addresses.get(address);
  }

  frontends(): Iterable<string> {
    return this.#addresses.keys();
  }

  /** Keys of the services that select a workload. */
  selecting(workload: string): ReadonlySet<string> {
    this.#drain();
    return this.#ofWorkload.get(workload) ?? NONE;
  }

  /** Keys of services that are others, or have other backends. */
  read(wake: () => void): FeedReader<string> {
    return this.#feed.read(wake);
  }

  /** The record of a machine is another. */
  recordChanged(workload: string): void {
    this.#workloadChanged(workload);
  }

  ready(): Promise<void> {
    return this.#mirror.ready();
  }

  /** Resolves when a write of this revision was seen. */
  reached(revision: number): Promise<void> {
    return this.#mirror.reached(revision);
  }

  /** Resolves when this version of a service was seen to be gone, or after a while. */
  async left(key: string, revision: number | undefined): Promise<void> {
    for (let waited = 0; waited < LEFT_MS; waited += LOOK_MS) {
      if (revision === undefined ? !this.unreadable.has(key) : this.get(key)?.revision !== revision) return;
      await sleep(LOOK_MS);
    }
  }

  close(): void {
    this.#mirror.close();
    this.#workloads.close();
  }

  #drain(): void {
    for (const name of this.#workloads.drain()) this.#workloadChanged(name);
  }

  #serviceChanged(key: string): void {
    const before = this.#rows.get(key);
    const service = this.#mirror.get(key);
    if (before?.service === service) {
      // One that cannot be read came or went.
      this.#feed.mark(key);
      return;
    }
    if (before !== undefined) this.#forget(key, before.service);
    if (service === undefined) {
      this.#rows.delete(key);
      for (const name of before?.backends.keys() ?? []) this.#unselect(name, key);
    } else {
      this.#remember(key, service);
      const row: Row = { service, backends: new Map(), counts: new Map() };
      this.#rows.set(key, row);
      for (const workload of this.#options.book.values()) this.#place(row, workload, this.#labelsOf(workload));
      for (const name of before?.backends.keys() ?? []) if (!row.backends.has(name)) this.#unselect(name, key);
    }
    this.#feed.mark(key);
  }

  #workloadChanged(name: string): void {
    const workload = this.#options.book.get(name);
    const concerned = new Set(this.#ofWorkload.get(name));
    const labels = workload === undefined ? undefined : this.#labelsOf(workload);
    for (const [label, value] of labels ?? [])
      for (const key of this.#byLabel.get(`${workload?.namespace} ${label}=${value}`) ?? []) concerned.add(key);
    for (const key of concerned) {
      const row = this.#rows.get(key);
      if (row === undefined) continue;
      const before = row.backends.get(name);
      if (workload === undefined || labels === undefined) this.#remove(row, name);
      else this.#place(row, workload, labels);
      if (JSON.stringify(before) !== JSON.stringify(row.backends.get(name))) this.#feed.mark(key);
    }
  }

  #place(row: Row, workload: KnownWorkload, labels: ReadonlyMap<string, string>): void {
    const { service } = row;
    const { name, namespace } = workload;
    if (!selectsMachine(service, { namespace, labels })) {
      this.#remove(row, name);
      return;
    }
    const found = backendsOf(service, workload, this.#options.record(name));
    count(row, row.backends.get(name), -1);
    count(row, found, 1);
    row.backends.set(name, found);
    this.#ofWorkload.set(name, new Set([...(this.#ofWorkload.get(name) ?? []), keyOf(service)]));
  }

  #remove(row: Row, name: string): void {
    count(row, row.backends.get(name), -1);
    if (row.backends.delete(name)) this.#unselect(name, keyOf(row.service));
  }

  #unselect(name: string, key: string): void {
    const left = [...(this.#ofWorkload.get(name) ?? [])].filter((each) => each !== key);
    if (left.length === 0) this.#ofWorkload.delete(name);
    else this.#ofWorkload.set(name, new Set(left));
  }

  #labelsOf(workload: KnownWorkload): ReadonlyMap<string, string> {
    const known = this.#labels.get(workload) ?? registrationLabels(workload, this.#options.cluster);
    this.#labels.set(workload, known);
    return known;
  }

  #remember(key: string, service: KnownService): void {
    const label = indexOf(service);
    this.#byLabel.set(label, new Set([...(this.#byLabel.get(label) ?? []), key]));
    // Whoever had it first keeps it; two are only there when somebody writes to the store by hand.
    for (const address of service.addresses) if (!this.#addresses.has(address)) this.#addresses.set(address, key);
  }

  #forget(key: string, service: KnownService): void {
    const label = indexOf(service);
    const left = [...(this.#byLabel.get(label) ?? [])].filter((each) => each !== key);
    if (left.length === 0) this.#byLabel.delete(label);
    else this.#byLabel.set(label, new Set(left));
    for (const address of service.addresses) if (this.#addresses.get(address) === key) this.#addresses.delete(address);
  }
}

const NONE: ReadonlySet<string> = new Set();
const NO_COUNTS: ReadonlyMap<ServiceBackendState, number> = new Map();

function count({ counts }: Row, backends: readonly ServiceBackend[] | undefined, more: 1 | -1): void {
  for (const { state } of backends ?? []) {
    const now = (counts.get(state) ?? 0) + more;
    if (now === 0) counts.delete(state);
    else counts.set(state, now);
  }
}

export function keyOf({ namespace, name }: Pick<MachineService, 'namespace' | 'name'>): string {
  return `${namespace}/${name}`;
}

function indexOf({ namespace, selector }: KnownService): string {
  const [first = ['', '']] = selector;
  return `${namespace} ${first[0]}=${first[1]}`;
}
