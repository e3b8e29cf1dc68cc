import type { Health } from '../../api/health.ts';
import type { StatusRecord } from '../../api/types.ts';
import type { Config } from '../../config/config.ts';
import type { Datapath } from '../../datapath/datapath.ts';
import type { Mesh } from '../../mesh/mesh.ts';
import type { Registered } from '../../mesh/registration.ts';
import type { Log } from '../../observe/log.ts';
import type { DesiredFromFacts } from '../desired-state.ts';
import type { Machine } from '../machine.ts';
import type { Body } from './content.ts';
import { Interim } from './interim.ts';
import { LastGoodKeeper } from './keeper.ts';
import { LastGoodPlace, type SnapshotFacts } from './place.ts';

export interface LastGoodOptions {
  /** What is in force: another one after a reload. */
  readonly config: () => Config;
  /** See `RestoreOptions.named`. */
  readonly named: boolean;
  readonly datapath: Datapath;
  readonly desired: DesiredFromFacts;
  readonly machine: Machine;
  readonly mesh: Mesh;
  readonly registered: () => Registered | undefined;
  readonly health: Health;
  readonly log: Log;
  /** See `InterimOptions`. */
  readonly onChange: () => void;
}

/** The agent's side of the last-good snapshot: begins with it where there is nothing newer, and keeps it from then on. */
export class LastGood {
  readonly #options: LastGoodOptions;
  readonly #place: LastGoodPlace;
  readonly #interim: Interim;
  readonly #keeper: LastGoodKeeper;
  readonly #live = new AbortController();
  #found: SnapshotFacts | undefined;
  #restored = false;

  constructor(options: LastGoodOptions) {
    this.#options = options;
    const { desired, machine, mesh } = options;
    const config = options.config();
    this.#place = new LastGoodPlace(config.stateDir);
    this.#interim = new Interim({
      ...options,
      place: this.#place,
      present: () => {
        desired.refresh();
        const { ipv4, ipv6, underlayMtu } = machine;
        return { border: desired.border, source4: ipv4, source6: ipv6, underlayMtu };
      },
    });
    this.#keeper = new LastGoodKeeper({
      ...options,
      place: this.#place,
      name: config.name,
      fresh: () => mesh.list().every(({ store }) => store.status.state === 'connected'),
    });
  }

  /** What an earlier run left. */
  async load(): Promise<void> {
    this.#restored = this.#place.restoredAt() !== undefined;
    this.#found = await this.#place.facts();
  }

  /** Keeps the kernel as the snapshot says until the stores have been seen; after `Datapath.open`. */
  async hold(signal: AbortSignal): Promise<void> {
    if (this.#options.config().datapath === 'none') return;
    await this.#interim.run(AbortSignal.any([signal, this.#live.signal]));
  }

  /** The snapshot is what the kernel enforces, and is kept so. */
  get holding(): boolean {
    return this.#interim.applied;
  }

  /** What this machine was registered as when the snapshot was written; null where the snapshot is not in force. */
  get registration(): Body['registration'] {
    return this.#interim.registration;
  }

  drifted(): void {
    this.#interim.drifted();
  }

  /** The stores have been seen: what they say is enforced from now on. */
  live(): void {
    this.#live.abort();
    void this.#place.forgetNote();
  }

  /** The kernel holds what the stores say; `changed`: it did not before. */
  applied(changed: boolean): void {
    if (this.#options.config().datapath !== 'none') this.#keeper.applied(changed);
  }

  /** Before the facts go: what is not written yet is written. */
  async close(): Promise<void> {
    this.#live.abort();
    await this.#keeper.close();
  }

  /** For `status`; undefined where there is none. */
  get view(): StatusRecord['lastGood'] {
    const live = this.#live.signal.aborted;
    const times = this.#keeper.times ?? timesOf(this.#found);
    if (times === undefined) return undefined;
    const snapshot = this.#interim.active || this.#restored;
    return { ...times, enforced: live ? 'live' : snapshot ? 'snapshot' : 'earlier-run' };
  }
}

function timesOf(found: SnapshotFacts | undefined): { savedAt: number; confirmedAt: number } | undefined {
  return found && { savedAt: found.head.savedAt, confirmedAt: found.confirmedAt };
}
