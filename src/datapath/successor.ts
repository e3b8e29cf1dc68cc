import type { LoggedPacket } from '../host/packet-log.ts';
import type { KernelConnection } from './connection.ts';
import type {
  ApplyReport,
  Datapath,
  DatapathStatus,
  KernelAddress,
  KernelFrontend,
  KernelPolicyRow,
} from './datapath.ts';
import type { DesiredChanges, DesiredState } from './desired.ts';

export interface SuccessorOptions {
  readonly datapath: Datapath;
  /** Takes away what the other technology left in the kernel. Called once, when ours is in force. */
  readonly retire: () => Promise<void>;
  readonly log?: { warn(facts: object, message: string): void };
}

/** A data path that follows on one of another technology: until the new one is in force the old one stays. */
export class Successor implements Datapath {
  readonly #options: SuccessorOptions;
  readonly #datapath: Datapath;
  #retired = false;

  constructor(options: SuccessorOptions) {
    this.#options = options;
    this.#datapath = options.datapath;
  }

  get name(): Datapath['name'] {
    return this.#datapath.name;
  }

  open(): Promise<void> {
    return this.#datapath.open();
  }

  async apply(desired: DesiredState, changes: DesiredChanges): Promise<ApplyReport> {
    const report = await this.#datapath.apply(desired, changes);
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

  dumpAddresses(): Promise<KernelAddress[]> {
    return this.#datapath.dumpAddresses();
  }

  dumpPolicy(): Promise<KernelPolicyRow[]> {
    return this.#datapath.dumpPolicy();
  }

  dumpServices(): Promise<KernelFrontend[]> {
    return this.#datapath.dumpServices();
  }

  dumpConnections(): Promise<KernelConnection[]> {
    return this.#datapath.dumpConnections();
  }

  hear(what: 'verdicts' | 'names', onPacket: (packet: LoggedPacket) => void): (() => void) | undefined {
    return this.#datapath.hear?.(what, onPacket);
  }

  get status(): DatapathStatus {
    return this.#datapath.status;
  }

  onDrift(listener: (what: string) => void): void {
    this.#datapath.onDrift(listener);
  }

  remove(): Promise<void> {
    return this.#datapath.remove();
  }

  close(): Promise<void> {
    return this.#datapath.close();
  }
}
