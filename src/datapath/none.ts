import { removeBpfPolicy } from './bpf/removal.ts';
import type { KernelConnection } from './connection.ts';
import type {
  ApplyReport,
  Datapath,
  DatapathStatus,
  KernelAddress,
  KernelFrontend,
  KernelPolicyRow,
} from './datapath.ts';
import { removeTable } from './nft/removal.ts';
import { removeAllPins } from './pins.ts';

/** `datapath: none`: nothing is enforced. `applied` stays false, so that no face can take it for enforcement. */
export class NoneDatapath implements Datapath {
  readonly name = 'none' as const;
  readonly #fileSystem: string | undefined;

  /** `fileSystem`: where the BPF file system is mounted. */
  constructor(fileSystem?: string) {
    this.#fileSystem = fileSystem;
  }

  /** Takes away what an earlier run with a data path left: stale rules would go on being enforced, unseen. */
  async open(): Promise<void> {
    await removeTable();
    await removeBpfPolicy(this.#fileSystem);
    removeAllPins(this.#fileSystem);
  }

  async apply(): Promise<ApplyReport> {
    return { added: 0, removed: 0, tookMs: 0, cut: 0 };
  }

  async dumpAddresses(): Promise<KernelAddress[]> {
    return [];
  }

  async dumpPolicy(): Promise<KernelPolicyRow[]> {
    return [];
  }

  async dumpServices(): Promise<KernelFrontend[]> {
    return [];
  }

  async dumpConnections(): Promise<KernelConnection[]> {
    return [];
  }

  get status(): DatapathStatus {
    const nothing = { packets: 0, bytes: 0 };
    return {
      applied: false,
      appliedAt: undefined,
      entries: { addresses: 0, prefixes: 0, policyRows: 0, classes: 0 },
      error: undefined,
      healed: 0,
      denied: { ingress: nothing, egress: nothing },
    };
  }

  onDrift(): void {}

  async remove(): Promise<void> {}

  async close(): Promise<void> {}
}
