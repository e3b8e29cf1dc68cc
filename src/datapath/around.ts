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

/** A data path around another one: what it does not say otherwise, the inner one does. */
export abstract class DatapathAround implements Datapath {
  protected readonly inner: Datapath;

  protected constructor(inner: Datapath) {
    this.inner = inner;
  }

  get name(): Datapath['name'] {
    return this.inner.name;
  }

  open(): Promise<void> {
    return this.inner.open();
  }

  apply(desired: DesiredState, changes: DesiredChanges): Promise<ApplyReport> {
    return this.inner.apply(desired, changes);
  }

  dumpAddresses(): Promise<KernelAddress[]> {
    return this.inner.dumpAddresses();
  }

  dumpPolicy(): Promise<KernelPolicyRow[]> {
    return this.inner.dumpPolicy();
  }

  dumpServices(): Promise<KernelFrontend[]> {
    return this.inner.dumpServices();
  }

  dumpConnections(): Promise<KernelConnection[]> {
    return this.inner.dumpConnections();
  }

  hear(what: 'verdicts' | 'names', onPacket: (packet: LoggedPacket) => void): (() => void) | undefined {
    return this.inner.hear?.(what, onPacket);
  }

  get status(): DatapathStatus {
    return this.inner.status;
  }

  onDrift(listener: (what: string) => void): void {
    this.inner.onDrift(listener);
  }

  remove(): Promise<void> {
    return this.inner.remove();
  }

  close(): Promise<void> {
    return this.inner.close();
  }
}
