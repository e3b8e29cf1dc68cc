import { setImmediate as nextTurn } from 'node:timers/promises';
import type { FrontendAt, ServiceElements } from '../../lb/writer.ts';
import type { ElementBatch, SetShape } from '../elements.ts';
import { slotKey, slotMapOf } from './keys.ts';

const SERVICES: SetShape = { kind: 'plain', data: 'mark' };
const SLOTS: SetShape = { kind: 'plain', data: 'bytes' };
/** Above this what was written goes to the kernel, who takes it in while our thread waits: 10 ms or so for each part. */
const PART_BYTES = 128 << 10;

/** The services in the packet filter's maps: an element is replaced within one transaction. */
export class ServiceBatch implements ServiceElements {
  readonly #batch: ElementBatch;
  readonly #send: () => Promise<void>;

  constructor(batch: ElementBatch, send: () => Promise<void>) {
    this.#batch = batch;
    this.#send = send;
  }

  choice({ family, bytes }: FrontendAt, choice: number | undefined, before: number | undefined): void {
    const key = Buffer.from(bytes, 'latin1');
    const map = `lb_services${family}`;
    if (before !== undefined) this.#batch.element(map, SERVICES, true, key, before);
    if (choice !== undefined) this.#batch.element(map, SERVICES, false, key, choice);
  }

  slot(at: FrontendAt & { readonly slot: number }, target: string | undefined, before: string | undefined): void {
    const { family, bytes, slot } = at;
    const key = Buffer.from(slotKey(family, bytes, slot), 'latin1');
    const map = slotMapOf(family, bytes);
    if (before !== undefined) this.#batch.element(map, SLOTS, true, key, 0);
    if (target !== undefined) this.#batch.element(map, SLOTS, false, key, Buffer.from(target, 'latin1'));
  }

  async turn(): Promise<void> {
    if (this.#batch.size > PART_BYTES) await this.flush();
    await nextTurn();
  }

  flush(): Promise<void> {
    return this.#send();
  }
}
