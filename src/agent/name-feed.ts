import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Health } from '../api/health.ts';
import { messageOf } from '../core/errors.ts';
import { type Address, formatAddress } from '../core/ip.ts';
import { readPacket } from '../core/packet.ts';
import { NAME_LOG } from '../datapath/name-log.ts';
import { type LoggedPacket, PacketLog } from '../host/packet-log.ts';
import type { Log } from '../observe/log.ts';
import { writeFileSafely } from '../pki/files.ts';
import { readDnsMessage } from '../policy/fqdn/dns-message.ts';
import { DnsExchanges } from '../policy/fqdn/exchanges.ts';
import { NameCache, type NameRecord } from '../policy/fqdn/name-cache.ts';
import type { PolicyModel } from '../policy/model.ts';

export interface NameFeedOptions {
  readonly stateDir: string;
  /** Seconds: a shorter lifetime is raised to it; and how long an address stays beyond its lifetime. */
  /** Lifetimes in seconds, as `Config.fqdn`; asked at every answer. */
  readonly fqdn: () => { readonly minTtl: number; readonly grace: number };
  readonly model: PolicyModel;
  readonly health: Health;
  readonly log: Log;
  /** Addresses that connections lead to; undefined while nobody knows. */
  readonly livePeers: () => Promise<ReadonlySet<string> | undefined>;
  /** Tells of the packets, unless the packet filter does; the result ends it. */
  readonly hear: (onPacket: (packet: LoggedPacket) => void) => (() => void) | undefined;
  /** Names have other addresses now: the kernel is to follow. */
  readonly onChange: () => void;
}

/** The largest answer over UDP that anybody sends, with its headers. */
const COPY_BYTES = 4608;
const RETRY_MS = 5_000;
/** How soon after a change the names are written to the disk; a lifetime that only grew may wait longer. */
const SAVE_MS = 2_000;
const SAVE_LATER_MS = 60_000;
/** How often connections are looked at for the sake of an address that outlived its answer. */
const LIVE_MS = 10_000;
const MAX_FILE_BYTES = 32 << 20;

/**
 * DNS names for `toFQDNs`, learnt from the answers that the machine receives, whoever asked. Listens only while some policy
 * wants names.
 *
 *   rules ──log group──▶ query seen? ──▶ name cache ──▶ model ──▶ reconciler
 */
export class NameFeed {
  readonly #options: NameFeedOptions;
  readonly #cache: NameCache;
  readonly #exchanges = new DnsExchanges({ now: () => performance.now() });
  #packets: { close(): void } | undefined;
  #retryAt = 0;
  #toldLost = 0;
  #expiry: { readonly at: number; readonly timer: NodeJS.Timeout } | undefined;
  #saving: { readonly at: number; readonly timer: NodeJS.Timeout } | undefined;
  #written: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(options: NameFeedOptions) {
    this.#options = options;
    this.#cache = new NameCache({
      minTtl: 0,
      now: Date.now,
      onChange: (name, addresses) => {
        options.model.setNames(name, addresses);
        options.onChange();
        this.#saveIn(SAVE_MS);
      },
    });
  }

  get file(): string {
    return join(this.#options.stateDir, 'names.json');
  }

  list(): NameRecord[] {
    return this.#cache.list();
  }

  /** The names that an address was learnt by. */
  namesOf(address: Address): string[] {
    const text = formatAddress(address);
    const holds = ({ addresses }: NameRecord): boolean => addresses.some((each) => each.address === text);
    return this.#cache.list().flatMap((record) => (holds(record) ? [record.name] : []));
  }

  /** Takes back what an earlier run has learnt: what is over, too, where a connection lives. Never rejects. */
  async restore(): Promise<void> {
    try {
      const records = await readRecords(this.file);
      const now = Date.now();
      const over = records.some(({ addresses }) => addresses.some(({ until }) => until <= now));
      const live = over ? await this.#options.livePeers() : new Set<string>();
      const lasting = records.map(({ name, addresses }) => ({
        name,
        addresses: addresses.map((each) =>
          each.until <= now && live?.has(each.address) !== false ? { ...each, until: now + LIVE_MS } : each,
        ),
      }));
      this.#cache.restore(lasting);
      if (this.#cache.size > 0) this.#expireAt(now + 1000);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
      const text = `names learnt before are lost: ${messageOf(error)}`;
      this.#options.health.set('names', { code: 'AGT-STATE', text, place: this.file, severity: 'warning' });
    }
  }

  /**
   * Begins and ends to listen; to be called from time to time, since it may have to be tried again. `told`: the rules can tell
   * of DNS packets.
   */
  want(wanted: boolean, told = true): void {
    const { health } = this.#options;
    if (!wanted || this.#closed) {
      this.#packets?.close();
      this.#packets = undefined;
      this.#exchanges.clear();
      health.clear('names', 'AGT-NAMES');
    } else if (!told) health.set('names', { code: 'AGT-NAMES', text: 'the kernel has no log of packets (nft_log)' });
    else if (this.#packets === undefined && performance.now() >= this.#retryAt) void this.#listen();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.want(false);
    clearTimeout(this.#expiry?.timer);
    if (this.#saving !== undefined) {
      clearTimeout(this.#saving.timer);
      this.#save();
    }
    await this.#written;
  }

  async #listen(): Promise<void> {
    const close = this.#options.hear((packet) => this.#receive(packet));
    if (close !== undefined) {
      this.#packets = { close };
      this.#options.health.clear('names', 'AGT-NAMES');
      return;
    }
    const packets = new PacketLog({
      group: NAME_LOG.group,
      copyBytes: COPY_BYTES,
      onPacket: (packet) => this.#receive(packet),
      onLost: () => this.#lost(),
    });
    this.#packets = packets;
    try {
      await packets.open();
      this.#options.health.clear('names', 'AGT-NAMES');
    } catch (error) {
      packets.close();
      // It may have been closed meanwhile, which is no trouble.
      if (this.#packets !== packets) return;
      this.#packets = undefined;
      this.#retryAt = performance.now() + RETRY_MS;
      this.#options.health.set('names', { code: 'AGT-NAMES', text: messageOf(error) });
    }
  }

  #receive({ prefix, payload }: LoggedPacket): void {
    const headers = readPacket(payload);
    if (headers === undefined) return;
    const message = readDnsMessage(payload.subarray(headers.payloadAt));
    if (message === undefined) return;
    if (prefix === NAME_LOG.query) this.#exchanges.asked(headers, message);
    else if (prefix === NAME_LOG.answer && this.#exchanges.answered(headers, message)) this.#learn(message);
  }

  #learn({ name, addresses }: { readonly name: string; readonly addresses: Parameters<NameCache['learn']>[1] }): void {
    const { minTtl, grace } = this.#options.fqdn();
    const answers = addresses.map(({ address, ttl }) => ({ address, ttl: Math.max(ttl, minTtl) + grace }));
    if (answers.length === 0) return;
    this.#cache.learn(name, answers);
    this.#expireAt(Date.now() + 1000 * Math.min(...answers.map(({ ttl }) => ttl)));
    this.#saveIn(SAVE_LATER_MS);
  }

  #lost(): void {
    if (performance.now() < this.#toldLost) return;
    this.#toldLost = performance.now() + SAVE_LATER_MS;
    this.#options.log.warn('DNS packets came faster than they were read: some answers were not seen');
  }

  #expireAt(at: number): void {
    if (this.#closed || (this.#expiry !== undefined && this.#expiry.at <= at)) return;
    clearTimeout(this.#expiry?.timer);
    const timer = setTimeout(() => void this.#expire(), Math.max(10, at - Date.now())).unref();
    this.#expiry = { at, timer };
  }

  async #expire(): Promise<void> {
    this.#expiry = undefined;
    try {
      if (this.#cache.due) {
        const live = await this.#options.livePeers();
        this.#cache.expire((address) => live?.has(formatAddress(address)) !== false);
      }
    } catch (error) {
      this.#options.log.warn('connections could not be read; no name is forgotten meanwhile', { error });
    }
    const next = this.#cache.nextExpiry;
    // What a connection keeps is over already.
    if (next !== undefined) this.#expireAt(next <= Date.now() ? Date.now() + LIVE_MS : next);
  }

  #saveIn(ms: number): void {
    const at = performance.now() + ms;
    if (this.#closed || (this.#saving !== undefined && this.#saving.at <= at)) return;
    clearTimeout(this.#saving?.timer);
    this.#saving = { at, timer: setTimeout(() => this.#save(), ms).unref() };
  }

  /** Only what some rule asks for: the rest is as good as new after a restart. */
  #save(): void {
    this.#saving = undefined;
    const { model, health } = this.#options;
    const names = this.#cache.list().filter(({ name }) => model.fqdnSelectorsOf(name).length > 0);
    const text = `${JSON.stringify({ version: 1, names })}\n`;
    this.#written = this.#written
      .then(() => writeFileSafely(this.file, text))
      .then(
        () => health.clear('names', 'AGT-STATE'),
        (error: unknown) =>
          health.set('names', { code: 'AGT-STATE', text: messageOf(error), place: this.file, severity: 'warning' }),
      );
  }
}

/** Throws for a file that is none of ours; records that make no sense are left out. */
async function readRecords(path: string): Promise<NameRecord[]> {
  const { size } = await stat(path);
  if (size > MAX_FILE_BYTES) throw new Error(`it has ${size} bytes, more than ${MAX_FILE_BYTES}`);
  const value = JSON.parse(await readFile(path, 'utf8')) as { version?: unknown; names?: unknown } | null;
  if (value?.version !== 1 || !Array.isArray(value.names)) throw new Error('it is no file of ours');
  return value.names.filter(isRecord);
}

function isRecord(value: unknown): value is NameRecord {
  const { name, addresses } = (value ?? {}) as { name?: unknown; addresses?: unknown };
  const isAddress = (each: unknown): boolean => {
    const { address, until } = (each ?? {}) as { address?: unknown; until?: unknown };
    return typeof address === 'string' && typeof until === 'number';
  };
  return typeof name === 'string' && Array.isArray(addresses) && addresses.every(isAddress);
}
