import type { ElementBatch, SetShape } from './elements.ts';

/** Keys of a set (their bytes as a latin1 string) and what they lead to. */
export type Elements = Map<string, number>;

/** What one set of the kernel holds, and the way to other content. */
export class SetTracker {
  readonly name: string;
  readonly shape: SetShape;
  readonly held: Elements = new Map();

  constructor(name: string, shape: SetShape) {
    this.name = name;
    this.shape = shape;
  }

  /** Removes what is not wanted before it adds, since intervals must not overlap at any time. */
  become(wanted: ReadonlyMap<string, number>, batch: ElementBatch): void {
    for (const [key, value] of this.held) if (wanted.get(key) !== value) this.put(key, undefined, batch);
    for (const [key, value] of wanted) this.put(key, value, batch);
  }

  holds(wanted: ReadonlyMap<string, number>): boolean {
    if (wanted.size !== this.held.size) return false;
    for (const [key, value] of wanted) if (this.held.get(key) !== value) return false;
    return true;
  }

  put(key: string, value: number | undefined, batch: ElementBatch): void {
    const held = this.held.get(key);
    if (held === value) return;
    const bytes = Buffer.from(key, 'latin1');
    if (held !== undefined) batch.element(this.name, this.shape, true, bytes, held);
    if (value === undefined) this.held.delete(key);
    else {
      batch.element(this.name, this.shape, false, bytes, value);
      this.held.set(key, value);
    }
  }
}
