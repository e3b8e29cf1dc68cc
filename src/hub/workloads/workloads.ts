import { randomUUID } from 'node:crypto';
import { Backoff } from '../../core/backoff.ts';
import { MeshError } from '../../core/errors.ts';
import { contains, type Family, formatPrefix, type Prefix, parsePrefix } from '../../core/ip.ts';
import { sleep } from '../../core/job.ts';
import type { Operation, Transaction, TransactionResult } from '../../kvstore/transaction.ts';
import type { HubStore } from '../hub-store.ts';
import type { Occupied } from './foreign-addresses.ts';
import { checkDnsLabel, checkDnsName, checkLabelKey, checkLabels, checkWorkloadName, type LabelMap } from './labels.ts';
import { encodeRangeOwner, MACHINE_BITS, RANGES_GUARD, rangeKey } from './ranges.ts';
import { encodeWorkload, NAMES_PREFIX, rangesOf, type Workload, type WorkloadSource, workloadKey } from './workload.ts';
import type { KnownWorkload, WorkloadBook } from './workload-book.ts';

/** What is asked for; everything but the name may be left out. */
export interface WorkloadRequest {
  readonly name: string;
  readonly namespace?: string | undefined;
  readonly labels?: LabelMap | undefined;
  readonly serviceAccount?: string | undefined;
  /** A range instead of one from the pools. */
  readonly ipv4AllocCidr?: string | undefined;
  readonly ipv6AllocCidr?: string | undefined;
  /** Default: by hand. */
  readonly source?: WorkloadSource;
}

export interface WorkloadChange {
  readonly labels?: LabelMap;
  readonly removeLabels?: readonly string[];
  readonly revoked?: boolean;
}

export interface WorkloadsOptions {
  readonly store: Pick<HubStore, 'transact'>;
  readonly book: WorkloadBook;
  readonly pools: readonly string[];
  /** Who has an address in this range already, beside workloads' own ranges. */
  readonly occupied: (range: Prefix) => Occupied | undefined;
  /** Ends all rights of a machine. Repeatable. */
  readonly revoke: (name: string) => Promise<void>;
}

const ATTEMPTS = 32;
const DEFAULT_NAMESPACE = 'default';
/** Larger ones hold more than one machine can mean, and make one typing error take a whole network. */
const SHORTEST: Readonly<Record<Family, number>> = { 4: 8, 6: 32 };

/**
 * What an administrator does with workloads. Several hubs may do it at once: every change is one transaction that holds
 * only if what it was based on is still true, and is thought over again when it is not.
 */
export class Workloads {
  readonly #options: WorkloadsOptions;
  readonly #pools: readonly Prefix[];
  #last: Promise<unknown> = Promise.resolve();

  constructor(options: WorkloadsOptions) {
    this.#options = options;
    this.#pools = options.pools.map((pool) => parsePrefix(pool)).filter((pool) => pool !== undefined);
  }

  /** @throws MeshError HUB-WORKLOAD, HUB-WORKLOAD-EXISTS, HUB-RANGE, HUB-POOL, HUB-CONFLICT, KVS-* */
  async create(request: WorkloadRequest): Promise<Workload> {
    const wanted = checked(request);
    // One after the other: within one hub nobody needs to lose against himself.
    const created = this.#last.then(() => this.#create(wanted));
    this.#last = created.catch(() => undefined);
    return created;
  }

  async #create(wanted: Workload): Promise<Workload> {
    const { book } = this.#options;
    const backoff = new Backoff({ minMs: 5, maxMs: 200 });
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const present = book.get(wanted.name);
      if (present !== undefined) throw exists(wanted.name, present.namespace);
      const guard = book.ranges.guard;
      const workload = { ...wanted, range4: this.#range(4, wanted.range4), range6: this.#range(6, wanted.range6) };
      const result = await this.#transact(createTransaction(workload, guard));
      await this.#seen(result);
      if (result.succeeded) return workload;
      const [name] = result.answers[0]?.found ?? [];
      if (name !== undefined) throw exists(wanted.name, name.value.toString());
      await sleep(backoff.next());
    }
    throw new MeshError('HUB-CONFLICT', `workload ${wanted.name} could not be created`);
  }

  /** @throws MeshError HUB-WORKLOAD, HUB-WORKLOAD-MISSING, HUB-CONFLICT, KVS-* */
  async change(name: string, change: WorkloadChange): Promise<Workload> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const present = this.#find(name);
      const next = changed(present, change);
      if (next === present) return present;
      const key = workloadKey(present);
      const result = await this.#transact({
        when: [{ key, modRevision: present.revision }],
        perform: [{ put: key, value: encodeWorkload(next) }],
        otherwise: [{ get: key }],
      });
      const [found] = result.answers[0]?.found ?? [];
      if (result.succeeded) {
        await this.#options.book.reached(result.revision);
        return next;
      }
      if (found === undefined) throw missing(name);
      await this.#options.book.reached(found.modRevision);
    }
    throw new MeshError('HUB-CONFLICT', `workload ${name} could not be changed`);
  }

  /**
   * Makes a workload what it is asked to be, ranges and namespace included; it stays the same one, and its machine keeps its
   * rights. A range that is not asked for stays. Only for the source that keeps it. @throws as `create` and `change`
   */
  async replace(request: WorkloadRequest): Promise<Workload> {
    const wanted = checked(request);
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const present = this.#find(wanted.name);
      if (present.source !== wanted.source) throw exists(present.name, present.namespace);
      const guard = this.#options.book.ranges.guard;
      const next = {
        ...wanted,
        uid: present.uid,
        created: present.created,
        revoked: present.revoked,
        range4: wanted.range4 ?? present.range4,
        range6: wanted.range6 ?? present.range6,
      };
      if (encodeWorkload({ ...next, changed: present.changed }) === encodeWorkload(present)) return present;
      const taken = rangesOf(next).filter((range) => !isOneOf(range, rangesOf(present)));
      for (const range of taken) this.#checkRange(range, present.name);
      const result = await this.#transact(replaceTransaction(present, { next, taken, guard }));
      await this.#seen(result);
      if (result.succeeded) return next;
      const [found] = result.answers[2]?.found ?? [];
      if (found === undefined) throw missing(wanted.name);
      await this.#options.book.reached(found.modRevision);
    }
    throw new MeshError('HUB-CONFLICT', `workload ${wanted.name} could not be changed`);
  }

  /** Rights first: what is deleted must not come back by a registration in between. @throws as `change` */
  async delete(name: string): Promise<Workload> {
    await this.#options.revoke(this.#find(name).name);
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const present = this.#find(name);
      const key = workloadKey(present);
      const result = await this.#transact({
        when: [{ key, modRevision: present.revision }],
        perform: [
          { remove: key },
          { remove: NAMES_PREFIX + present.name },
          ...rangesOf(present).map((range): Operation => ({ remove: rangeKey(range) })),
          { put: RANGES_GUARD, value: present.name },
        ],
        otherwise: [{ get: key }],
      });
      if (result.succeeded) {
        await this.#options.book.ranges.reached(result.revision);
        return present;
      }
      const [found] = result.answers[0]?.found ?? [];
      if (found === undefined) throw missing(name);
      await this.#options.book.reached(found.modRevision);
    }
    throw new MeshError('HUB-CONFLICT', `workload ${name} could not be deleted`);
  }

  #find(name: string): KnownWorkload {
    const present = this.#options.book.get(name);
    if (present === undefined) throw missing(name);
    return present;
  }

  #transact(transaction: Transaction): Promise<TransactionResult> {
    return this.#options.store.transact(transaction);
  }

  /** Waits until the ranges are known as they were when the transaction was done, or refused. */
  async #seen(result: TransactionResult): Promise<void> {
    const guard = result.succeeded ? result.revision : result.answers[1]?.found[0]?.modRevision;
    if (guard !== undefined) await this.#options.book.ranges.reached(guard);
    if (result.succeeded) await this.#options.book.reached(result.revision);
  }

  #range(family: Family, given: Prefix | undefined): Prefix | undefined {
    const { ranges } = this.#options.book;
    if (given !== undefined) return this.#checkRange(given);
    const pools = this.#pools.filter((pool) => pool.family === family);
    if (pools.length === 0) return undefined;
    for (const pool of pools) {
      const free = this.#firstFree(pool);
      if (free !== undefined) return free;
    }
    const all = pools.map(formatPrefix).join(', ');
    throw new MeshError(
      'HUB-POOL',
      `no IPv${family} range of /${MACHINE_BITS[family]} is free in ${all}: workloads have ${ranges.size}, and connected clusters what they use`,
    );
  }

  /** Steps over what is free for us but in use in a connected cluster. */
  #firstFree(pool: Prefix): Prefix | undefined {
    const { index } = this.#options.book.ranges;
    const avoided: Prefix[] = [];
    try {
      for (;;) {
        const free = index.firstFree(pool, MACHINE_BITS[pool.family]);
        const occupied = free === undefined ? undefined : this.#options.occupied(free);
        if (occupied === undefined) return free;
        avoided.push(occupied.prefix);
        // All of it at once: half of the pool may be somebody else's.
        index.add(occupied.prefix, AVOIDED);
      }
    } finally {
      for (const prefix of avoided) index.remove(prefix, AVOIDED);
    }
  }

  /** `own`: the workload that may have it already. @throws MeshError HUB-RANGE */
  #checkRange(range: Prefix, own?: string): Prefix {
    const shown = formatPrefix(range);
    const pool = this.#pools.find((each) => contains(range, each));
    if (pool !== undefined) throw new MeshError('HUB-RANGE', `${shown} takes all of the pool ${formatPrefix(pool)}`);
    const taken = this.#options.book.ranges.index.overlapping(range, (owner) => owner !== own);
    if (taken !== undefined)
      throw new MeshError('HUB-RANGE', `${shown} overlaps ${formatPrefix(taken.prefix)} of workload ${taken.owner}`);
    const occupied = this.#options.occupied(range);
    if (occupied !== undefined) throw new MeshError('HUB-RANGE', `${shown} is in use: ${occupied.owner}`);
    return range;
  }
}

const AVOIDED = '\0';

function checked(request: WorkloadRequest): Workload {
  const { serviceAccount } = request;
  const now = Date.now();
  return {
    uid: randomUUID(),
    name: checkWorkloadName(request.name),
    namespace: checkDnsLabel(request.namespace ?? DEFAULT_NAMESPACE, 'namespace'),
    labels: checkLabels(request.labels ?? {}),
    serviceAccount: serviceAccount === undefined ? undefined : checkDnsName(serviceAccount, 'service account'),
    range4: givenRange(request.ipv4AllocCidr, 4),
    range6: givenRange(request.ipv6AllocCidr, 6),
    created: now,
    changed: now,
    revoked: undefined,
    source: request.source ?? 'hand',
  };
}

/** @throws MeshError HUB-RANGE */
function givenRange(text: string | undefined, family: Family): Prefix | undefined {
  if (text === undefined) return undefined;
  const wrong = (detail: string) => new MeshError('HUB-RANGE', `${JSON.stringify(text.slice(0, 100))} ${detail}`);
  const range = text.includes('/') ? parsePrefix(text) : undefined;
  if (range === undefined || range.family !== family) throw wrong(`is no IPv${family} prefix`);
  const canonical = formatPrefix(range);
  if (canonical !== text) throw wrong(`is not canonical: write ${canonical}`);
  if (range.bits < SHORTEST[family]) throw wrong(`is too large: /${SHORTEST[family]} at most`);
  const first = range.words[0] ?? 0;
  const usable =
    family === 4
      ? first >>> 24 !== 0 && first >>> 24 !== 127 && first >>> 28 < 14 && first >>> 16 !== 0xa9fe
      : first !== 0 && first >>> 24 !== 0xff && first >>> 22 !== 0x3fa;
  if (!usable) throw wrong('holds no addresses that machines can have');
  return range;
}

function createTransaction(workload: Workload, guard: number): Transaction {
  const { name, namespace, uid } = workload;
  const ranges = rangesOf(workload);
  const owner = encodeRangeOwner({ workload: name, uid });
  const key = workloadKey(workload);
  return {
    when: [
      { key: NAMES_PREFIX + name, createRevision: 0 },
      { key, createRevision: 0 },
      { key: RANGES_GUARD, modRevision: guard },
      ...ranges.map((range) => ({ key: rangeKey(range), createRevision: 0 })),
    ],
    perform: [
      { put: NAMES_PREFIX + name, value: namespace },
      { put: key, value: encodeWorkload(workload) },
      ...ranges.map((range): Operation => ({ put: rangeKey(range), value: owner })),
      { put: RANGES_GUARD, value: name },
    ],
    otherwise: [{ get: NAMES_PREFIX + name }, { get: RANGES_GUARD }],
  };
}

function replaceTransaction(
  present: KnownWorkload,
  change: { readonly next: Workload; readonly taken: readonly Prefix[]; readonly guard: number },
): Transaction {
  const { next, taken, guard } = change;
  const [before, after] = [workloadKey(present), workloadKey(next)];
  const moved = before !== after;
  const given = rangesOf(present).filter((range) => !isOneOf(range, rangesOf(next)));
  const owner = encodeRangeOwner({ workload: next.name, uid: next.uid });
  return {
    when: [
      { key: before, modRevision: present.revision },
      ...(moved ? [{ key: after, createRevision: 0 }] : []),
      { key: RANGES_GUARD, modRevision: guard },
      ...taken.map((range) => ({ key: rangeKey(range), createRevision: 0 })),
    ],
    perform: [
      { put: after, value: encodeWorkload(next) },
      ...(moved ? [{ remove: before }, { put: NAMES_PREFIX + next.name, value: next.namespace }] : []),
      ...given.map((range): Operation => ({ remove: rangeKey(range) })),
      ...taken.map((range): Operation => ({ put: rangeKey(range), value: owner })),
      { put: RANGES_GUARD, value: next.name },
    ],
    otherwise: [{ get: NAMES_PREFIX + next.name }, { get: RANGES_GUARD }, { get: before }],
  };
}

function isOneOf(range: Prefix, ranges: readonly Prefix[]): boolean {
  return ranges.some((each) => formatPrefix(each) === formatPrefix(range));
}

/** The same object when nothing changes. */
function changed(present: KnownWorkload, change: WorkloadChange): Workload {
  const labels = { ...present.labels, ...change.labels };
  for (const key of change.removeLabels ?? []) {
    checkLabelKey(key);
    delete labels[key];
  }
  const next = checkLabels(labels);
  const revoked = change.revoked === undefined ? present.revoked !== undefined : change.revoked;
  const same = JSON.stringify(next) === JSON.stringify(present.labels) && revoked === (present.revoked !== undefined);
  if (same) return present;
  return {
    ...present,
    labels: next,
    changed: Date.now(),
    revoked: revoked ? (present.revoked ?? Date.now()) : undefined,
  };
}

function exists(name: string, namespace: string): MeshError {
  return new MeshError('HUB-WORKLOAD-EXISTS', `${name} in namespace ${namespace}`);
}

function missing(name: string): MeshError {
  return new MeshError('HUB-WORKLOAD-MISSING', JSON.stringify(name.slice(0, 100)));
}
