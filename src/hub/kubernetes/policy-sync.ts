import { MeshError } from '../../core/errors.ts';
import { sleep } from '../../core/job.ts';
import { POLICIES_PREFIX } from '../../kvstore/paths.ts';
import type { Store } from '../../kvstore/store.ts';
import type { Condition, Operation } from '../../kvstore/transaction.ts';
import type { Leadership } from '../election.ts';
import { KUBERNETES_DOCUMENTS, readName } from '../policies/policy-document.ts';
import { Mirror } from '../workloads/mirror.ts';
import type { Outcome, RefusedObject } from './outcome.ts';
import { hashOf, type KubePolicy } from './policy-object.ts';

/** What is known of one kind. */
export interface PolicySet {
  readonly kind: string;
  /** Undefined when there was no complete list yet: then nothing of this kind is touched. */
  readonly objects: ReadonlyMap<string, KubePolicy> | undefined;
}

interface Stored {
  readonly revision: number;
  readonly hash: string;
  readonly bytes: number;
}

interface Change {
  readonly key: string;
  /** Undefined: it is removed. */
  readonly text: string | undefined;
  /** 0 when there was none. */
  readonly revision: number;
}

/** What a transaction of etcd takes, with the conditions of the leader. */
const AT_ONCE = 50;
const MAX_REQUEST_BYTES = 1 << 20;
/** As `hub policy apply` has them: every machine holds all policies. */
const MAX_POLICIES = 5000;
const MAX_TOTAL_BYTES = 64 << 20;
const REMOVAL_WAITS = 500;

/** Keeps the documents from Kubernetes in step. It touches no others. */
export class PolicySync {
  readonly #leader: Pick<Leadership, 'transact'>;
  readonly #documents: Mirror<Stored>;

  constructor(options: {
    readonly store: Pick<Store, 'watchPrefix'>;
    readonly leader: Pick<Leadership, 'transact'>;
    /** The documents of the store have changed. */
    readonly onChange: () => void;
  }) {
    this.#leader = options.leader;
    this.#documents = new Mirror<Stored>({
      store: options.store,
      prefix: POLICIES_PREFIX,
      decode: (_key, value, revision) => ({ revision, hash: hashOf(value), bytes: value.length }),
      onChange: () => options.onChange(),
    });
  }

  /** @throws MeshError HUB-CONFLICT, HUB-NOT-LEADER, KVS-*; it may be called again then */
  async sync(sets: readonly PolicySet[]): Promise<Outcome> {
    await this.#documents.ready();
    const present = new Map([...this.#documents.entries()]);
    const { changes, refused } = plan(sets, present);
    for (const batch of batches(changes)) await this.#write(batch);
    const own = [...this.#documents.entries()].filter(([key]) => key.startsWith(KUBERNETES_DOCUMENTS));
    const conflicts = own.flatMap(([key]) =>
      this.#documents.get(key.slice(KUBERNETES_DOCUMENTS.length)) === undefined ? [] : [readName(key)?.name ?? key],
    );
    return { count: own.length, refused, conflicts, changed: changes.length };
  }

  close(): void {
    this.#documents.close();
  }

  async #write(batch: readonly Change[]): Promise<void> {
    const when = batch.map(({ key, revision }): Condition => ({ key: POLICIES_PREFIX + key, modRevision: revision }));
    const perform = batch.map(
      ({ key, text }): Operation =>
        text === undefined ? { remove: POLICIES_PREFIX + key } : { put: POLICIES_PREFIX + key, value: text },
    );
    const { succeeded, revision } = await this.#leader.transact({ when, perform });
    if (!succeeded) throw new MeshError('HUB-CONFLICT', 'policies of Kubernetes');
    if (batch.some(({ text }) => text !== undefined)) await this.#documents.reached(revision);
    // Removals have no revision to wait for.
    const gone = (): boolean =>
      batch.every(({ key, text }) => text !== undefined || this.#documents.get(key) === undefined);
    for (let waits = 0; !gone() && waits < REMOVAL_WAITS; waits++) await sleep(10);
  }
}

function plan(
  sets: readonly PolicySet[],
  present: ReadonlyMap<string, Stored>,
): { readonly changes: Change[]; readonly refused: RefusedObject[] } {
  const refused: RefusedObject[] = [];
  const changes: Change[] = [];
  const wanted = new Set<string>();
  let count = present.size;
  let total = [...present.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  for (const policy of sets.flatMap(({ objects }) => [...(objects?.values() ?? [])])) {
    const key = policy.name?.document;
    const before = key === undefined ? undefined : present.get(key);
    if (key !== undefined) wanted.add(key);
    if ('problem' in policy || key === undefined) {
      const reason = 'problem' in policy ? policy.problem : 'it has no name';
      refused.push({ name: policy.shown, reason, kept: before !== undefined });
      continue;
    }
    if (before?.hash === policy.hash) continue;
    const more = policy.bytes - (before?.bytes ?? 0);
    if (total + more > MAX_TOTAL_BYTES || (before === undefined && count >= MAX_POLICIES)) {
      const reason = `the hub hands out ${MAX_POLICIES} policies of ${MAX_TOTAL_BYTES} bytes at most`;
      refused.push({ name: policy.shown, reason, kept: before !== undefined });
      continue;
    }
    total += more;
    if (before === undefined) count++;
    changes.push({ key, text: policy.text, revision: before?.revision ?? 0 });
  }
  const complete = new Set(sets.filter(({ objects }) => objects !== undefined).map(({ kind }) => kind));
  for (const [key, { revision }] of present) {
    const name = readName(key);
    const ours = name?.source === 'kubernetes' && complete.has(name.kind);
    if (ours && !wanted.has(key)) changes.push({ key, text: undefined, revision });
  }
  return { changes, refused };
}

function* batches(changes: readonly Change[]): Generator<readonly Change[]> {
  let batch: Change[] = [];
  let bytes = 0;
  for (const change of changes) {
    const size = Buffer.byteLength(change.text ?? '');
    if (batch.length >= AT_ONCE || (batch.length > 0 && bytes + size > MAX_REQUEST_BYTES)) {
      yield batch;
      batch = [];
      bytes = 0;
    }
    batch.push(change);
    bytes += size;
  }
  if (batch.length > 0) yield batch;
}
