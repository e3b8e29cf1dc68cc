import { randomBytes } from 'node:crypto';
import type { AuditEvent, AuditRecord, RegistrationAuditEvent } from '../../api/enrolment.ts';
import { messageOf } from '../../core/errors.ts';
import { TokenBucket } from '../../core/token-bucket.ts';
import type { Operation } from '../../kvstore/transaction.ts';
import type { Log } from '../../observe/log.ts';
import type { HubStore } from '../hub-store.ts';
import { AUDIT_PREFIX, parseObject } from './keys.ts';

export interface AuditOptions {
  readonly store: Pick<HubStore, 'put' | 'readPrefix' | 'transact'>;
  readonly log: Log;
  readonly now: () => number;
  /** The newest that are kept, of registrations and of all else. */
  readonly keep?: number;
  /** Refusals that are written at once, and per second after that. */
  readonly burst?: number;
  readonly perSecond?: number;
}

/** Of something that was over before it is written. */
export interface AuditedAt {
  readonly at?: number;
  readonly suppressed?: number;
}

export type AuditEntry = Omit<AuditRecord, 'at' | 'suppressed'>;

const KEEP = 10_000;
const MAX_TEXT = 300;
const REMOVED_AT_ONCE = 128;
const REGISTRATIONS: ReadonlySet<string> = new Set<RegistrationAuditEvent>([
  'registered',
  'registration-refused',
  'registration-ended',
  'withdrawn',
]);
const EVENTS: ReadonlySet<string> = new Set<AuditEvent>([
  'token-created',
  'token-withdrawn',
  'joined',
  'join-repeated',
  'join-refused',
  'renew-refused',
  'left',
  'revoked',
  ...(REGISTRATIONS as ReadonlySet<RegistrationAuditEvent>),
]);

/**
 * Who did what, when, from where: one key in the store for each act. Acts that were done are all written; of refusals,
 * which anyone can cause, only so many, and the next one says how many were left out.
 */
export class AuditLog {
  readonly #options: AuditOptions;
  readonly #bucket: TokenBucket;
  #suppressed = 0;

  constructor(options: AuditOptions) {
    this.#options = options;
    this.#bucket = new TokenBucket({ burst: options.burst ?? 60, perSecond: options.perSecond ?? 1 });
  }

  /** The write of a record, for the transaction of the act itself: both are done, or none. */
  operation(entry: AuditEntry, { at, suppressed }: AuditedAt = {}): Operation {
    const { key, value } = this.#encode(entry, suppressed ?? 0, at);
    return { put: key, value };
  }

  /** An act of an administrator that is done. @throws MeshError KVS-* */
  async write(entry: AuditEntry): Promise<void> {
    const { key, value } = this.#encode(entry, 0);
    await this.#options.store.put(key, value);
  }

  /** A refusal. A store that is away must not turn it into anything else: then the log of the hub has it. */
  async refuse(entry: AuditEntry): Promise<void> {
    const { log, store } = this.#options;
    if (!this.#bucket.take()) {
      this.#suppressed++;
      return;
    }
    const left = this.#suppressed;
    this.#suppressed = 0;
    const { key, value } = this.#encode(entry, left);
    log.warn('enrolment refused', { ...entry, ...(left > 0 && { suppressed: left }) });
    try {
      await store.put(key, value);
    } catch (error) {
      this.#suppressed += left;
      log.warn('a refusal could not be put on record', { reason: messageOf(error) });
    }
  }

  /** The oldest first. */
  async list(): Promise<AuditRecord[]> {
    const { entries } = await this.#options.store.readPrefix(AUDIT_PREFIX);
    return entries.flatMap(({ value }) => decode(value) ?? []);
  }

  /** Removes what is too much. @returns how many */
  async trim(): Promise<number> {
    const { store, keep = KEEP } = this.#options;
    const { entries } = await store.readPrefix(AUDIT_PREFIX);
    // A network that fails ends the registrations of a whole fleet: that must not push out who joined.
    const sorts = Map.groupBy(entries, ({ value }) => REGISTRATIONS.has(String(parseObject(value)?.event)));
    const old = [...sorts.values()].flatMap((some) => some.slice(0, Math.max(0, some.length - keep)));
    for (let at = 0; at < old.length; at += REMOVED_AT_ONCE) {
      const perform = old.slice(at, at + REMOVED_AT_ONCE).map(({ key }) => ({ remove: AUDIT_PREFIX + key }));
      await store.transact({ perform });
    }
    return old.length;
  }

  #encode(entry: AuditEntry, suppressed: number, at = this.#options.now()): { key: string; value: string } {
    const short = Object.fromEntries(
      Object.entries(entry).map(([name, text]) => [name, cut(String(text))]),
    ) as unknown as AuditEntry;
    const record: AuditRecord = { at, ...short, ...(suppressed > 0 && { suppressed }) };
    // Sorts by time; several hubs write at the same moment.
    const key = `${AUDIT_PREFIX}${String(Math.max(0, at)).padStart(15, '0')}-${randomBytes(4).toString('hex')}`;
    return { key, value: JSON.stringify(record) };
  }
}

function cut(text: string): string {
  return text.length <= MAX_TEXT ? text : `${text.slice(0, MAX_TEXT)}...`;
}

function decode(value: Buffer): AuditRecord | undefined {
  const found = parseObject(value);
  return typeof found?.at === 'number' && typeof found.event === 'string' && EVENTS.has(found.event)
    ? (found as unknown as AuditRecord)
    : undefined;
}
