import { MeshError } from '../../core/errors.ts';
import type { KnownWorkload, WorkloadBook } from '../workloads/workload-book.ts';
import type { WorkloadRequest, Workloads } from '../workloads/workloads.ts';
import type { Outcome, RefusedObject } from './outcome.ts';
import type { KubeWorkload } from './workload-object.ts';

/** What is wrong with one object and nobody else's trouble. */
const REFUSALS: ReadonlySet<string> = new Set(['HUB-WORKLOAD', 'HUB-WORKLOAD-EXISTS', 'HUB-RANGE', 'HUB-POOL']);

/** Keeps the workloads from Kubernetes in step. It touches no others: their source is their mark. */
export class WorkloadSync {
  readonly #book: WorkloadBook;
  readonly #workloads: Workloads;

  /** `workloads` writes as leader alone. */
  constructor(options: { readonly book: WorkloadBook; readonly workloads: Workloads }) {
    this.#book = options.book;
    this.#workloads = options.workloads;
  }

  /**
   * `objects`: undefined when there was no complete list yet; then nothing is touched.
   * @throws MeshError HUB-CONFLICT, HUB-NOT-LEADER, KVS-*; it may be called again then
   */
  async sync(objects: ReadonlyMap<string, KubeWorkload> | undefined, signal: AbortSignal): Promise<Outcome> {
    await this.#book.ready();
    const refused: RefusedObject[] = [];
    const conflicts: string[] = [];
    let changed = 0;
    const wanted = new Set([...(objects?.values() ?? [])].map(({ name }) => name));
    // First: what they have is free for others then.
    for (const { name, source } of objects === undefined ? [] : [...this.#book.values()]) {
      if (source !== 'kubernetes' || wanted.has(name) || signal.aborted) continue;
      await this.#workloads.delete(name);
      changed++;
    }
    for (const object of objects?.values() ?? []) {
      if (signal.aborted) break;
      const present = this.#book.get(object.name);
      if (present !== undefined && present.source !== 'kubernetes') {
        conflicts.push(`CiliumExternalWorkload/${object.name}`);
        continue;
      }
      const refuse = (reason: string): void => {
        refused.push({ name: `CiliumExternalWorkload/${object.name}`, reason, kept: present !== undefined });
      };
      if ('problem' in object) {
        refuse(object.problem);
        continue;
      }
      try {
        if (await this.#put(object.request, present)) changed++;
      } catch (error) {
        if (!(error instanceof MeshError) || !REFUSALS.has(error.code)) throw error;
        refuse(error.message);
      }
    }
    const count = [...this.#book.values()].filter(({ source }) => source === 'kubernetes').length;
    return { count, changed, refused, conflicts };
  }

  async #put(request: WorkloadRequest, present: KnownWorkload | undefined): Promise<boolean> {
    if (present === undefined) {
      await this.#workloads.create(request);
      return true;
    }
    const next = await this.#workloads.replace(request);
    return next !== present;
  }
}
