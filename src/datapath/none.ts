import type { ApplyReport, Datapath, DatapathStatus, KernelAddress, KernelPolicyRow } from './datapath.ts';

/** `datapath: none`: nothing is enforced. `applied` stays false, so that no face can take it for enforcement. */
export class NoneDatapath implements Datapath {
  readonly name = 'none' as const;

  async open(): Promise<void> {}

  async apply(): Promise<ApplyReport> {
    return { added: 0, removed: 0, tookMs: 0, cut: 0 };
  }

  async dumpAddresses(): Promise<KernelAddress[]> {
    return [];
  }

  async dumpPolicy(): Promise<KernelPolicyRow[]> {
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
