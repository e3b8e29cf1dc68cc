import { MeshError, messageOf } from '../../core/errors.ts';
import { JobGroup, sleep } from '../../core/job.ts';
import type { PrefixWatch } from '../../kvstore/store.ts';
import type { Operation } from '../../kvstore/transaction.ts';
import type { HubStore } from '../hub-store.ts';
import { WORKLOADS_PREFIX } from '../workloads/workload.ts';
import { decodeCertificate, removeCertificate, removeToken } from './books.ts';
import type { EnrolmentContext } from './context.ts';
import { CERTIFICATES_PREFIX } from './keys.ts';
import { endPapers } from './revoke.ts';
import { findWorkload, readWorkload } from './workload-state.ts';

const DAY_MS = 86_400_000;
/** What a token or certificate was is known for so long after its end. */
const TOKEN_KEPT_MS = 7 * DAY_MS;
const CERTIFICATE_KEPT_MS = DAY_MS;
const EVERY_MS = 10 * 60_000;
const AFTER_FAILURE_MS = 5_000;
const AT_ONCE = 60;

export interface CareOptions {
  readonly context: EnrolmentContext;
  readonly store: Pick<HubStore, 'watchPrefix'>;
  readonly everyMs?: number;
}

/**
 * Keeps true, whoever was ended in the middle of what: a machine has a user in the store if and only if its workload exists and
 * a certificate of it is good. A workload that vanishes, by whatever hand, takes its certificates along at once. What
 * is long over is forgotten. Runs in the hub that leads.
 */
export class EnrolmentCare {
  readonly #options: CareOptions;
  readonly #jobs: JobGroup;
  readonly #workloads = new Map<string, string>();
  readonly #gone = new Set<string>();
  #listed: Set<string> | undefined;
  #watch: PrefixWatch | undefined;
  #wake = (): void => undefined;
  #sweeps = 0;

  constructor(options: CareOptions) {
    this.#options = options;
    this.#jobs = new JobGroup((name, error) => options.context.log.error('background work ended', { name, error }));
  }

  get sweeps(): number {
    return this.#sweeps;
  }

  start(): void {
    this.#watch = this.#options.store.watchPrefix(WORKLOADS_PREFIX, {
      listing: () => {
        this.#listed = new Set();
      },
      put: (key) => {
        this.#workloads.set(key, key.slice(key.indexOf('/') + 1));
        this.#listed?.add(key);
      },
      remove: (key) => this.#vanished(key),
      listed: () => {
        for (const key of [...this.#workloads.keys()]) if (this.#listed?.has(key) === false) this.#vanished(key);
        this.#listed = undefined;
        this.#wake();
      },
    });
    this.#jobs.start('enrolment', (signal) => this.#run(signal));
  }

  async stop(): Promise<void> {
    this.#watch?.close();
    this.#wake();
    await this.#jobs.stop();
  }

  #vanished(key: string): void {
    const name = this.#workloads.get(key);
    if (name === undefined) return;
    this.#workloads.delete(key);
    this.#gone.add(name);
    this.#wake();
  }

  async #run(signal: AbortSignal): Promise<void> {
    const { context, everyMs = EVERY_MS } = this.#options;
    let due = 0;
    while (!signal.aborted) {
      let wait: number;
      try {
        for (const workload of [...this.#gone]) {
          await this.#endDeleted(workload);
          this.#gone.delete(workload);
        }
        if (this.#watch?.synced === true && performance.now() >= due) {
          await this.sweep(signal);
          this.#sweeps++;
          due = performance.now() + everyMs;
        }
        wait = due === 0 ? everyMs : due - performance.now();
      } catch (error) {
        context.log.warn('enrolment cannot be tidied up now', { reason: messageOf(error) });
        wait = AFTER_FAILURE_MS;
      }
      if (this.#gone.size === 0 || wait === AFTER_FAILURE_MS) await this.#sleep(wait, signal);
    }
  }

  async #sleep(ms: number, signal: AbortSignal): Promise<void> {
    const woken = new AbortController();
    this.#wake = () => woken.abort();
    const stop = (): void => woken.abort();
    signal.addEventListener('abort', stop, { once: true });
    if (!signal.aborted) await sleep(ms, woken.signal);
    signal.removeEventListener('abort', stop);
    this.#wake = () => undefined;
  }

  /** The name may have been given to a new workload already: what that one has stays. */
  async #endDeleted(workload: string): Promise<void> {
    const { context } = this.#options;
    const by = 'the hub';
    const live = await findWorkload(context, workload).catch((error: unknown) => {
      if (error instanceof MeshError && error.code === 'JOIN-NO-WORKLOAD') return undefined;
      throw error;
    });
    const [serial] = await endPapers(context, { workload, by, keep: live?.uid });
    await this.#reconcile(workload);
    const reason = 'its workload was deleted';
    if (serial !== undefined) await context.audit.write({ event: 'revoked', workload, by, serial, reason });
  }

  /** One look at everything. @throws MeshError KVS-* */
  async sweep(signal?: AbortSignal): Promise<void> {
    const { context } = this.#options;
    const { good, old } = await this.#certificates();
    const users = new Set(await context.access.machines());
    // A user without a good certificate: ended before its rights were. A certificate without a user: ended before its grant.
    for (const name of new Set([...good, ...users])) {
      if (signal?.aborted === true) return;
      if (good.has(name) !== users.has(name)) await this.#reconcile(name);
    }
    await this.#forget(old);
    await context.audit.trim();
  }

  /** Rights follow the certificates. One that comes at this moment is seen by the second look. */
  async #reconcile(name: string): Promise<void> {
    const { context } = this.#options;
    if (!(await this.#isGood(name))) await context.access.revoke(name);
    if (await this.#isGood(name)) await context.access.grant(name);
  }

  async #isGood(name: string): Promise<boolean> {
    const { context } = this.#options;
    for (const serial of await context.books.serials(name)) {
      const held = await context.books.certificate(serial);
      if (held === undefined || held.value.revokedAt !== undefined || held.value.notAfter < context.now()) continue;
      const live = await readWorkload(context, held.value.workloadKey);
      if (typeof live !== 'string' && live.uid === held.value.workloadUid) return true;
    }
    return false;
  }

  async #certificates(): Promise<{ good: Set<string>; old: Operation[] }> {
    const { context } = this.#options;
    const now = context.now();
    const good = new Set<string>();
    const old: Operation[] = [];
    for (const { key, value } of (await context.store.readPrefix(CERTIFICATES_PREFIX)).entries) {
      const certificate = decodeCertificate(value);
      if (certificate === undefined) continue;
      const { workload, workloadKey, notAfter, revokedAt } = certificate;
      if (notAfter + CERTIFICATE_KEPT_MS < now) old.push(...removeCertificate(key, workload));
      else if (
        revokedAt === undefined &&
        notAfter > now &&
        this.#workloads.has(workloadKey.slice(WORKLOADS_PREFIX.length))
      )
        good.add(workload);
    }
    return { good, old };
  }

  async #forget(old: readonly Operation[]): Promise<void> {
    const { context } = this.#options;
    const before = context.now() - TOKEN_KEPT_MS;
    const tokens = (await context.books.tokens())
      .filter((token) => token.expiresAt < before)
      .flatMap(({ id, workload }) => removeToken(id, workload));
    const all = [...old, ...tokens];
    for (let at = 0; at < all.length; at += AT_ONCE)
      await context.store.transact({ perform: all.slice(at, at + AT_ONCE) });
  }
}
