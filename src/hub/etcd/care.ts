import { messageOf } from '../../core/errors.ts';
import { JobGroup, sleep } from '../../core/job.ts';
import { type Alarm, Member, type MemberStatus } from '../../kvstore/maintenance.ts';
import { storeAccess } from '../hub-store.ts';
import type { HubContext, HubPart } from '../part.ts';

const LOOK_MS = 5000;
/** Fragmentation is worth the stop of a member only when the file is large and half of it is air, once an hour. */
const MIN_SIZE = 64 << 20;
const MAX_USED = 0.5;
const BETWEEN_MS = 3_600_000;
/** A file that fills so much of the quota is told before etcd stops taking writes. */
const NEARLY_FULL = 0.8;
const SUBJECT = 'etcd';

/**
 * Looks after etcd: defragments one member at a time, and ends alarms when their reason is gone. Any client with a
 * certificate may raise an alarm in etcd 3.4, and one that has no reason must not stop the fleet. Every hub does it: with
 * an alarm nobody can become leader.
 */
export class EtcdCare implements HubPart {
  readonly name = 'etcd-care';
  readonly #context: HubContext;
  readonly #jobs: JobGroup;
  readonly #defragmented = new Map<string, number>();
  #members: readonly MemberStatus[] = [];
  #alarms: readonly Alarm[] = [];
  #defragmentations = 0;
  #disarmed = 0;

  constructor(context: HubContext) {
    this.#context = context;
    this.#jobs = new JobGroup((_name, error) => context.log.error('etcd is not looked after any more', { error }));
  }

  /** As they were at the last look. */
  get members(): readonly MemberStatus[] {
    return this.#members;
  }

  get alarms(): readonly Alarm[] {
    return this.#alarms;
  }

  async start(): Promise<void> {
    this.#jobs.start('care', async (signal) => {
      while (!signal.aborted) {
        await this.#round(signal);
        await sleep(LOOK_MS, signal);
      }
    });
  }

  stop(): Promise<void> {
    return this.#jobs.stop();
  }

  status(): object {
    return { defragmentations: this.#defragmentations, alarmsDisarmed: this.#disarmed };
  }

  async #round(signal: AbortSignal): Promise<void> {
    const { endpoints, ...keys } = storeAccess(this.#context.config, this.#context.pki.folder);
    const members: MemberStatus[] = [];
    let alarms: readonly Alarm[] | undefined;
    for (const endpoint of endpoints) {
      if (signal.aborted) return;
      try {
        const member = await Member.connect(endpoint, { endpoints, ...keys }, signal);
        try {
          // Alarms are those of all members, so any of them tells all.
          alarms ??= await this.#lookAtAlarms(member);
          members.push(await this.#lookAtSize(member));
        } finally {
          member.close();
        }
      } catch (error) {
        this.#context.log.debug('a member of etcd could not be looked at', { endpoint, reason: messageOf(error) });
      }
    }
    this.#members = members;
    this.#alarms = alarms ?? [];
  }

  /** The alarms that stay. */
  async #lookAtAlarms(member: Member): Promise<readonly Alarm[]> {
    const stay: Alarm[] = [];
    for (const alarm of await member.alarms()) {
      const over = alarm.kind === 'no-space' ? await this.#noSpace(member, alarm) : this.#isFalse(alarm);
      if (over) {
        await member.disarm(alarm);
        this.#disarmed++;
      } else stay.push(alarm);
    }
    return stay;
  }

  /** Makes room when that is what is missing. @returns whether there is room */
  async #noSpace(member: Member, alarm: Alarm): Promise<boolean> {
    const { log, health } = this.#context;
    const { revision, size } = await member.status();
    const quota = this.#quota();
    if (quota !== undefined && size < NEARLY_FULL * quota) {
      log.warn('etcd had an alarm for space without a reason: a client raised it', { size, member: alarm.memberId });
      return true;
    }
    health.set(SUBJECT, { code: 'HUB-ETCD-SPACE', text: `${size} bytes are used: it takes no more writes` });
    log.error('etcd is out of space: it is compacted and defragmented', { size });
    await member.compact(revision).catch((error: unknown) => {
      if (!/compacted/.test(messageOf(error))) throw error;
    });
    await member.defragment();
    this.#defragmentations++;
    const left = await member.status();
    log.info('etcd was compacted and defragmented', { before: size, now: left.size });
    return quota === undefined || left.size < NEARLY_FULL * quota;
  }

  /** A member alone has nobody to differ from, so only a client can have raised it. */
  #isFalse(alarm: Alarm): boolean {
    const { log, health } = this.#context;
    if (this.#quota() !== undefined) {
      log.warn('etcd had an alarm for corruption without a reason: a client raised it');
      return true;
    }
    const text = `member ${alarm.memberId} says that its data differ from those of the others`;
    health.set(SUBJECT, { code: 'HUB-ETCD-DATA', text });
    return false;
  }

  /** Known of the own etcd only. */
  #quota(): number | undefined {
    const { etcd } = this.#context.config;
    return etcd.endpoints.length === 0 ? etcd.quota : undefined;
  }

  async #lookAtSize(member: Member): Promise<MemberStatus> {
    const { log, health, leading } = this.#context;
    const status = await member.status();
    const { endpoint, size, sizeInUse } = status;
    const quota = this.#quota();
    const full = quota !== undefined && sizeInUse > NEARLY_FULL * quota;
    const text = `${sizeInUse} of ${quota} bytes are used`;
    health.check(SUBJECT, 'HUB-ETCD-SPACE', full ? { text, severity: 'warning' } : undefined);
    const last = this.#defragmented.get(endpoint);
    const lately = last !== undefined && performance.now() - last < BETWEEN_MS;
    if (size < MIN_SIZE || sizeInUse > size * MAX_USED || lately || !leading()) return status;
    log.info('a member of etcd is defragmented', { endpoint, size, used: sizeInUse });
    await member.defragment();
    this.#defragmentations++;
    this.#defragmented.set(endpoint, performance.now());
    return member.status();
  }
}
