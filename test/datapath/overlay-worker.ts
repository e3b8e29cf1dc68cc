import { monitorEventLoopDelay } from 'node:perf_hooks';
import { createInterface } from 'node:readline';
import { MeshError } from '../../src/core/errors.ts';
import { parsePrefix } from '../../src/core/ip.ts';
import type { DesiredState } from '../../src/datapath/desired.ts';
import { Overlay } from '../../src/datapath/overlay/overlay.ts';
import { type OverlayScene, stateOf } from './overlay-state.ts';

// Started by OverlayDriver in a network namespace: one JSON command a line, one JSON answer a line; `drift` lines between.
export interface WorkerCommand {
  readonly id: number;
  readonly run: 'apply' | 'prepare' | 'status' | 'remove' | 'endpoint';
  readonly scene?: OverlayScene;
  readonly changes?: {
    everything?: boolean;
    overlay?: boolean;
    border?: boolean;
    hosts4?: number[];
    hosts6?: string[];
  };
  readonly prefix?: string;
}

const say = (record: object): void => void process.stdout.write(`${JSON.stringify(record)}\n`);
const overlay = new Overlay();
await overlay.open();
overlay.onDrift((what) => say({ drift: what }));
let desired: DesiredState | undefined;

async function run(command: WorkerCommand): Promise<unknown> {
  if (command.scene !== undefined) desired = stateOf(command.scene);
  if (command.run === 'status') return overlay.status;
  if (command.run === 'remove') return overlay.remove();
  if (command.run === 'endpoint') {
    const prefix = parsePrefix(command.prefix ?? '');
    return prefix === undefined ? null : ((await overlay.tunnelEndpoints()).find(prefix) ?? null);
  }
  if (desired === undefined) throw new Error('no scene yet');
  const start = performance.now();
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  await overlay.prepare(desired);
  const report = command.run === 'prepare' ? {} : await overlay.apply(desired, command.changes ?? { everything: true });
  delay.disable();
  return { ...report, tookMs: performance.now() - start, blockedMs: delay.max / 1e6 };
}

say({ ready: true });
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line) as WorkerCommand;
  try {
    say({ id: command.id, result: (await run(command)) ?? null });
  } catch (error) {
    say({
      id: command.id,
      code: error instanceof MeshError ? error.code : 'none',
      error: error instanceof Error ? error.message : String(error),
    });
  }
}
await overlay.close();
