import { join } from 'node:path';
import type { OverlayStatus } from '../../src/datapath/overlay/status.ts';
import { JsonWorker } from '../lab/json-worker.ts';
import type { Namespace } from '../lab/namespace.ts';
import type { OverlayScene } from './overlay-state.ts';
import type { WorkerCommand } from './overlay-worker.ts';

export interface ApplyAnswer {
  readonly added: number;
  readonly removed: number;
  readonly refused: number;
  readonly tookMs: number;
  readonly blockedMs: number;
}

/** An `Overlay` in a process of its own, inside a namespace. */
export class OverlayDriver {
  readonly #worker: JsonWorker;

  private constructor(worker: JsonWorker) {
    this.#worker = worker;
  }

  static async start(namespace: Namespace): Promise<OverlayDriver> {
    return new OverlayDriver(await JsonWorker.start(namespace, join(import.meta.dirname, 'overlay-worker.ts')));
  }

  get drifts(): string[] {
    return this.#worker.drifts;
  }

  #send(command: Omit<WorkerCommand, 'id'>): Promise<unknown> {
    return this.#worker.send(command);
  }

  /** Prepares and applies; without a scene, the last one again. */
  async apply(scene?: OverlayScene, changes?: WorkerCommand['changes']): Promise<ApplyAnswer> {
    const command = { ...(scene && { scene }), ...(changes && { changes }) };
    return (await this.#send({ run: 'apply', ...command })) as ApplyAnswer;
  }

  async prepare(scene: OverlayScene): Promise<void> {
    await this.#send({ run: 'prepare', scene });
  }

  async status(): Promise<OverlayStatus> {
    return (await this.#send({ run: 'status' })) as OverlayStatus;
  }

  async endpoint(prefix: string): Promise<string | null> {
    return (await this.#send({ run: 'endpoint', prefix })) as string | null;
  }

  async remove(): Promise<void> {
    await this.#send({ run: 'remove' });
  }

  /** As if the agent stopped: nothing is undone. */
  async stop(): Promise<void> {
    await this.#worker.stop();
  }
}
