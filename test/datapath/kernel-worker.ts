import { spawnSync } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { KernelConnection } from '../../src/datapath/connection.ts';
import type {
  ApplyReport,
  Datapath,
  DatapathStatus,
  KernelAddress,
  KernelFrontend,
  KernelPolicyRow,
} from '../../src/datapath/datapath.ts';
import type { DesiredChanges, DesiredState } from '../../src/datapath/desired.ts';
import { KernelDatapath } from '../../src/datapath/kernel.ts';
import { NftDatapath } from '../../src/datapath/nft/datapath.ts';
import { NoneDatapath } from '../../src/datapath/none.ts';
import { Overlay } from '../../src/datapath/overlay/overlay.ts';
import { type OverlayScene, stateOf } from './overlay-state.ts';

// Started in a network namespace: a whole data path, driven by one JSON command a line. The argument is the policy: `nft`,
// or `probe`, which enforces nothing but tells what the kernel holds at the moment when it is asked to apply.
export interface KernelCommand {
  readonly id: number;
  readonly run: 'apply' | 'status' | 'remove' | 'dump' | 'seen';
  readonly scene?: OverlayScene;
  readonly changes?: { everything?: boolean; overlay?: boolean };
}

/** What a `probe` saw. */
export interface Sight {
  readonly device: boolean;
  readonly routes: number;
  readonly changes: string;
}

const lines = (...args: string[]): number =>
  spawnSync('ip', args, { encoding: 'utf8' })
    .stdout.split('\n')
    .filter((line) => line !== '').length;
const look = (): { device: boolean; routes: number } => ({
  device: spawnSync('ip', ['link', 'show', 'mesh_vxlan']).status === 0,
  routes: lines('-4', 'route', 'show', 'proto', '77') + lines('-6', 'route', 'show', 'proto', '77'),
});

class Probe implements Datapath {
  readonly name = 'nftables' as const;
  readonly seen: Sight[] = [];
  removedWith: object | undefined;
  readonly #none = new NoneDatapath();
  #applied = false;

  async open(): Promise<void> {}
  async apply(_desired: DesiredState, changes: DesiredChanges): Promise<ApplyReport> {
    this.#applied = true;
    this.seen.push({ ...look(), changes: JSON.stringify(changes) });
    return { added: 1, removed: 0, tookMs: 0, cut: 0 };
  }
  async dumpAddresses(): Promise<KernelAddress[]> {
    const addresses = ['10.1.0.5/32', '10.2.0.0/24', '10.2.0.7/32', 'fd00:1::5/128', '203.0.113.0/24', 'nonsense'];
    return addresses.map((prefix) => ({ prefix, identity: 4242, tunnelEndpoint: '0.0.0.0' }));
  }
  async dumpPolicy(): Promise<KernelPolicyRow[]> {
    return [];
  }
  async dumpConnections(): Promise<KernelConnection[]> {
    return [];
  }
  async dumpServices(): Promise<KernelFrontend[]> {
    return [];
  }
  get status(): DatapathStatus {
    return { ...this.#none.status, applied: this.#applied };
  }
  onDrift(): void {}
  async remove(): Promise<void> {
    this.removedWith = look();
  }
  async close(): Promise<void> {}
}

const say = (record: object): void => void process.stdout.write(`${JSON.stringify(record)}\n`);
const probe = process.argv[2] === 'probe' ? new Probe() : undefined;
const datapath = new KernelDatapath({ policy: probe ?? new NftDatapath(), overlay: new Overlay() });
await datapath.open();
let desired: DesiredState | undefined;
datapath.onDrift((what) => {
  say({ drift: what });
  if (desired !== undefined) void datapath.apply(desired, { everything: true });
});

async function run(command: KernelCommand): Promise<unknown> {
  if (command.scene !== undefined) desired = stateOf(command.scene);
  if (command.run === 'status') return datapath.status;
  if (command.run === 'seen') return { seen: probe?.seen.splice(0), removedWith: probe?.removedWith };
  if (command.run === 'dump') return datapath.dumpAddresses();
  if (command.run === 'remove') {
    desired = undefined;
    return datapath.remove();
  }
  if (desired === undefined) throw new Error('no scene yet');
  return datapath.apply(desired, command.changes ?? { everything: true });
}

say({ ready: true });
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line) as KernelCommand;
  try {
    say({ id: command.id, result: (await run(command)) ?? null });
  } catch (error) {
    say({ id: command.id, code: 'none', error: error instanceof Error ? error.message : String(error) });
  }
}
await datapath.close();
