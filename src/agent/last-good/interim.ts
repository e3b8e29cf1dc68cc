import type { Health } from '../../api/health.ts';
import type { Config } from '../../config/config.ts';
import { MeshError } from '../../core/errors.ts';
import { type Address, formatAddress } from '../../core/ip.ts';
import { sleep } from '../../core/job.ts';
import type { Datapath } from '../../datapath/datapath.ts';
import type { Border, DesiredOverlay, DesiredState } from '../../datapath/desired.ts';
import type { Log } from '../../observe/log.ts';
import type { LastGoodPlace } from './place.ts';
import { asConfigured, countsOf, readRestored } from './restore.ts';
import type { Restored } from './restored-state.ts';

export interface InterimOptions {
  readonly place: LastGoodPlace;
  /** What is in force: another one after a reload. */
  readonly config: () => Config;
  /** See `RestoreOptions.named`. */
  readonly named: boolean;
  readonly datapath: Datapath;
  /** This machine and its stores as they are now. */
  readonly present: () => Present;
  readonly health: Health;
  readonly log: Log;
  /** Whether it is in force has changed. */
  readonly onChange: () => void;
}

export type Present = { readonly border: Border } & Pick<DesiredOverlay, 'source4' | 'source6' | 'underlayMtu'>;

/** A store that is there is followed and enforced in less; before that nothing is read that would only be thrown away. */
const PATIENCE_MS = 3_000;
const LOOK_MS = 250;

/**
 * Between a boot and the first complete view of the stores: the snapshot is what the kernel ought to hold, with the devices,
 * the addresses and the stores as they are now. So a store that has another address is reached, tunnels work, and a foreign
 * change heals. Only when the kernel has no rules, or those that `mesh-agent restore` put there: what an agent of this boot left
 * may be newer than the snapshot.
 */
export class Interim {
  readonly #options: InterimOptions;
  #restored: Restored | undefined;
  #told = '';
  #drifted = false;
  #applied = false;

  constructor(options: InterimOptions) {
    this.#options = options;
  }

  /** Whether the kernel is kept as the snapshot says. */
  get active(): boolean {
    return this.#restored !== undefined;
  }

  /** What this machine was registered as, while the kernel is kept so. */
  get registration(): Restored['registration'] {
    return this.#restored?.registration ?? null;
  }

  /** Whether the kernel took it, with the devices and stores of now. */
  get applied(): boolean {
    return this.#applied;
  }

  /** What is ours in the kernel was changed, or what is to be there of the snapshot. */
  drifted(): void {
    this.#drifted = true;
  }

  /** Runs until the signal aborts, after `datapath.open`. */
  async run(signal: AbortSignal): Promise<void> {
    const { datapath, place } = this.#options;
    const empty = datapath.status.entries.classes === 0;
    if (!empty && place.restoredAt() === undefined) return;
    await sleep(PATIENCE_MS, signal);
    if (signal.aborted) return;
    const restored = await this.#read();
    if (restored === undefined || signal.aborted) return;
    this.#restored = restored;
    const counts = countsOf(restored.state);
    this.#options.log.info('no complete view of the stores yet: the last-good snapshot is in force', { ...counts });
    while (!signal.aborted) {
      await this.#round(restored.state);
      await sleep(LOOK_MS, signal);
    }
    this.#restored = undefined;
    this.#applied = false;
  }

  async #read(): Promise<Restored | undefined> {
    const { place, health } = this.#options;
    try {
      return await readRestored(place, { config: this.#options.config(), named: this.#options.named });
    } catch (error) {
      if (!(error instanceof MeshError)) throw error;
      health.set('state/last-good', { code: error.code, text: error.message, place: place.file, severity: 'warning' });
      return undefined;
    }
  }

  async #round(saved: DesiredState): Promise<void> {
    const { datapath, log, present } = this.#options;
    const config = this.#options.config();
    const { border: presentBorder, ...sources } = present();
    const border = this.#border(saved.border, presentBorder);
    const told = JSON.stringify([border, sources]);
    if (told === this.#told && !this.#drifted) return;
    const changes = this.#told === '' || this.#drifted ? { everything: true } : { border: true, overlay: true };
    this.#drifted = false;
    try {
      const overlay = saved.overlay && { ...saved.overlay, ...sources };
      await datapath.apply({ ...asConfigured(saved, border, config), overlay }, changes);
      this.#told = told;
      if (this.#applied) return;
      this.#applied = true;
      this.#options.onChange();
    } catch (error) {
      // Not told: the next look tries again.
      this.#drifted = true;
      log.debug('the snapshot was not applied', { error });
    }
  }

  /** Nodes are those of the snapshot, until the stores tell others. */
  #border(saved: Border, border: Border): Border {
    const nodes = new Map<string, Address>();
    for (const node of [...saved.nodes, ...border.nodes]) nodes.set(formatAddress(node), node);
    const watchNames = saved.watchNames === true || border.watchNames === true;
    return { ...border, watchNames, nodes: this.#options.config().routing === 'tunnel' ? [...nodes.values()] : [] };
  }
}
