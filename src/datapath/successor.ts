import { DatapathAround } from './around.ts';
import type { ApplyReport, Datapath } from './datapath.ts';
import type { DesiredChanges, DesiredState } from './desired.ts';

export interface SuccessorOptions {
  readonly datapath: Datapath;
  /** Takes away what the other technology left in the kernel. Called once, when ours is in force. */
  readonly retire: () => Promise<void>;
  readonly log?: { warn(facts: object, message: string): void };
}

/** A data path that follows on one of another technology: until the new one is in force the old one stays. */
export class Successor extends DatapathAround {
  readonly #options: SuccessorOptions;
  #retired = false;

  constructor(options: SuccessorOptions) {
    super(options.datapath);
    this.#options = options;
  }

  override async apply(desired: DesiredState, changes: DesiredChanges): Promise<ApplyReport> {
    const report = await super.apply(desired, changes);
    if (!this.#retired) await this.#retire();
    return report;
  }

  /** What is in force judges alone as well as with the old one beside it: a failure is only told. */
  async #retire(): Promise<void> {
    this.#retired = true;
    try {
      await this.#options.retire();
    } catch (error) {
      this.#options.log?.warn({ error }, 'what another data path left in the kernel could not be taken away');
    }
  }
}
