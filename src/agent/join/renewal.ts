import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { ENROLMENT_PATHS, machineCommonName } from '../../api/enrolment.ts';
import type { Health } from '../../api/health.ts';
import { Backoff } from '../../core/backoff.ts';
import { MeshError, messageOf } from '../../core/errors.ts';
import { sleep } from '../../core/job.ts';
import type { Log } from '../../observe/log.ts';
import { makeRequest } from '../../pki/request.ts';
import { readCertificateAnswer } from './certificate-answer.ts';
import { type JoinFiles, readJoinRecord, writePrivate, writePublic } from './files.ts';
import { askHub } from './hub-client.ts';

export interface RenewalOptions {
  readonly files: JoinFiles;
  readonly health: Health;
  readonly log: Log;
  /** Called when what `status` shows changed. */
  readonly onChange: () => void;
  readonly now?: () => number;
  readonly random?: () => number;
  /** How often the clock is looked at: it may jump. */
  readonly lookMs?: number;
  readonly timeoutMs?: number;
}

/** Times are milliseconds since the epoch. */
export interface RenewalStatus {
  readonly notBefore: number;
  readonly notAfter: number;
  /** Hexadecimal. */
  readonly serial: string;
  readonly renewAt: number;
  readonly renewals: number;
  readonly lastError?: string;
}

const SUBJECT = 'certificate';
const LOOK_MS = 60_000;
const REFUSED_LOOK_MS = 2_000;
/** Least time between two doubts. */
const DOUBT_MS = 60_000;
const RETRY_MIN_MS = 30_000;
const RETRY_MAX_MS = 3_600_000;
/** Renewed between so much of its life and so much: a fleet that joined in one moment does not come back in one. */
const EARLIEST = 0.62;
const LATEST = 0.67;
/** Certificates of a hub begin so long before they were made, milliseconds. */
const EARLIER_MS = 3_600_000;
/** Less than that left, and it is an error. */
const GRAVE = 1 / 6;

/**
 * Keeps the certificate of a machine that joined a hub young, with the certificate that runs. The key stays: whoever has
 * stolen it could renew as well, and so only one file is replaced, which cannot be half done. The kvstore reads the
 * files again whenever it connects.
 */
export class Renewal {
  readonly #options: Required<Pick<RenewalOptions, 'now' | 'random' | 'lookMs'>> & RenewalOptions;
  readonly #jitter: number;
  #certificate: X509Certificate | undefined;
  #renewals = 0;
  #lastError: string | undefined;
  #retryAt = 0;
  #backoff: Backoff | undefined;
  #refusal: MeshError | undefined;
  /** When it may be doubted again, and what ends the pause before the next look. */
  #doubtAt = 0;
  #doubted = false;
  #hurry = new AbortController();

  constructor(options: RenewalOptions) {
    this.#options = { now: Date.now, random: Math.random, lookMs: LOOK_MS, ...options };
    this.#jitter = EARLIEST + this.#options.random() * (LATEST - EARLIEST);
  }

  /** undefined when there is no certificate of a hub. */
  get status(): RenewalStatus | undefined {
    const certificate = this.#certificate;
    if (certificate === undefined) return undefined;
    return {
      notBefore: certificate.validFromDate.getTime(),
      notAfter: certificate.validToDate.getTime(),
      serial: certificate.serialNumber,
      renewAt: Math.max(this.#due(certificate), this.#retryAt),
      renewals: this.#renewals,
      ...(this.#lastError !== undefined && { lastError: this.#lastError }),
    };
  }

  /** Where it asks: these must be let through, whatever the policy says. */
  get hubs(): readonly string[] {
    return readJoinRecord(this.#options.files)?.hubs ?? [];
  }

  /** The store refuses this certificate: the hub is asked soon whether it is still good for anything. At most once in a while. */
  doubt(): void {
    const { now, lookMs } = this.#options;
    // What the hub has refused it refuses again.
    if (this.#doubted || this.#refusal !== undefined || now() < this.#doubtAt) return;
    this.#doubtAt = now() + Math.max(lookMs, DOUBT_MS);
    this.#doubted = true;
    this.#hurry.abort();
  }

  /** Until the signal aborts. A machine that did not join a hub has nothing to renew. */
  async run(signal: AbortSignal): Promise<void> {
    const { now, lookMs, files, health } = this.#options;
    while (!signal.aborted) {
      if (readJoinRecord(files) === undefined) return;
      this.#read();
      const certificate = this.#certificate;
      if (certificate === undefined) {
        health.set(SUBJECT, { code: 'JOIN-RENEWAL', text: this.#lastError ?? '', place: files.cert });
        await sleep(lookMs, signal);
        continue;
      }
      const due = Math.max(this.#due(certificate), this.#retryAt);
      if (now() >= due || this.#doubted) {
        this.#doubted = false;
        await this.#renew(certificate, signal);
      }
      this.#tell();
      const wait = Math.max(this.#due(this.#certificate ?? certificate), this.#retryAt) - now();
      this.#hurry = new AbortController();
      // Whoever was told that it is revoked joins again, and does not want to wait for us to see it.
      const pause = this.#refusal === undefined ? lookMs : Math.min(lookMs, REFUSED_LOOK_MS);
      if (!this.#doubted)
        await sleep(Math.min(pause, Math.max(10, wait)), AbortSignal.any([signal, this.#hurry.signal]));
    }
  }

  async #renew(certificate: X509Certificate, signal: AbortSignal): Promise<void> {
    const { files, log, now, random } = this.#options;
    const { from, to } = lifeOf(certificate);
    const life = to - from;
    // A life of days allows an hour between two tries, one of minutes does not.
    const backoff =
      this.#backoff ??
      new Backoff({
        minMs: Math.min(RETRY_MIN_MS, life / 50),
        maxMs: Math.min(RETRY_MAX_MS, life / 20),
        random,
      });
    this.#backoff = backoff;
    try {
      const renewed = await this.#ask(certificate);
      if (signal.aborted) return;
      await writePublic(files.cert, renewed.toString());
      this.#certificate = renewed;
      this.#renewals++;
      this.#lastError = undefined;
      this.#refusal = undefined;
      this.#retryAt = 0;
      this.#backoff = undefined;
      log.info('the certificate of this machine was renewed', { notAfter: renewed.validToDate.toISOString() });
    } catch (cause) {
      const error = cause instanceof MeshError ? cause : new MeshError('JOIN-RENEWAL', messageOf(cause), { cause });
      this.#lastError = `${error.message} (${error.code})`;
      if (!error.retryable) this.#refusal = error;
      this.#retryAt = now() + backoff.next();
      log.debug('the certificate of this machine was not renewed', { error });
    }
  }

  async #ask(certificate: X509Certificate): Promise<X509Certificate> {
    const { files, now, timeoutMs } = this.#options;
    const record = readJoinRecord(files);
    if (record === undefined)
      throw new MeshError('JOIN-RENEWAL', 'join.json is missing or broken', { place: files.record });
    const [ca, keyPem] = [readFileSync(files.ca, 'utf8'), readFileSync(files.key, 'utf8')];
    const key = createPrivateKey(keyPem);
    const request = makeRequest({ commonName: machineCommonName(record.name), key });
    let last: unknown;
    for (const url of record.hubs) {
      try {
        const { text } = await askHub({
          url,
          ca,
          path: ENROLMENT_PATHS.renew,
          body: { request },
          identity: { cert: certificate.toString(), key: keyPem },
          ...(timeoutMs !== undefined && { timeoutMs }),
        });
        const expected = { key, workload: record.name, caHash: record.caHash, now: now() };
        const renewed = readCertificateAnswer(text, expected);
        await this.#remember(record, renewed.answer.hubs);
        return renewed.certificate;
      } catch (error) {
        last = error;
        // A hub that refuses has the same store as the others.
        if (error instanceof MeshError && !error.retryable) throw error;
      }
    }
    throw last ?? new MeshError('JOIN-RENEWAL', 'no hub is known', { place: files.record });
  }

  /** Hubs come and go. */
  async #remember(record: NonNullable<ReturnType<typeof readJoinRecord>>, hubs: readonly string[]): Promise<void> {
    if (JSON.stringify(record.hubs) === JSON.stringify(hubs)) return;
    await writePrivate(this.#options.files.record, `${JSON.stringify({ ...record, hubs }, null, 2)}\n`);
  }

  /** Another one may be there by now: a new join. */
  #read(): void {
    const { files } = this.#options;
    try {
      const found = new X509Certificate(readFileSync(files.cert));
      if (found.serialNumber !== this.#certificate?.serialNumber) {
        this.#retryAt = 0;
        this.#backoff = undefined;
        this.#refusal = undefined;
        this.#lastError = undefined;
      }
      this.#certificate = found;
    } catch (error) {
      this.#certificate = undefined;
      this.#lastError = messageOf(error);
    }
  }

  #due(certificate: X509Certificate): number {
    const { from, to } = lifeOf(certificate);
    return from + (to - from) * this.#jitter;
  }

  #tell(): void {
    const { health, files, now, onChange } = this.#options;
    const certificate = this.#certificate;
    if (certificate === undefined) return;
    const { from, to } = lifeOf(certificate);
    const left = to - now();
    const until = certificate.validToDate.toISOString();
    const place = files.cert;
    health.check(SUBJECT, 'JOIN-EXPIRED', left <= 0 ? { text: `it ended on ${until}`, place } : undefined);
    const revoked = this.#refusal?.code === 'JOIN-REVOKED' && left > 0;
    health.check(
      SUBJECT,
      'JOIN-REVOKED',
      revoked ? { text: this.#refusal?.message ?? '', place, severity: 'error' } : undefined,
    );
    const failing = this.#lastError !== undefined && left > 0 && !revoked;
    health.check(
      SUBJECT,
      'JOIN-RENEWAL',
      failing
        ? {
            text: `it ends on ${until} and was not renewed: ${this.#lastError}`,
            place,
            severity: left < (to - from) * GRAVE ? 'error' : 'warning',
          }
        : undefined,
    );
    onChange();
  }
}

/** From when it was made to its end. */
function lifeOf(certificate: X509Certificate): { from: number; to: number } {
  const [begin, to] = [certificate.validFromDate.getTime(), certificate.validToDate.getTime()];
  return { from: begin + EARLIER_MS < to ? begin + EARLIER_MS : begin, to };
}
