import type { WordTable } from '../../core/word-table.ts';
import { type ElementBatch, HOST_SHAPE } from './elements.ts';
import { addressKey } from './keys.ts';

type Hosts = Pick<WordTable, 'lookup' | 'forEach' | 'keyAt' | 'get' | 'size'>;

/** Writes one single address; zero or undefined takes it away. */
export function putHost(held: WordTable, key: ArrayLike<number>, value: number | undefined, batch: ElementBatch): void {
  const slot = held.find(key);
  const before = slot < 0 ? undefined : held.get(slot, 0);
  if (before === value) return;
  const name = held.keyWords === 1 ? 'host4' : 'host6';
  const bytes = Buffer.from(addressKey(key), 'latin1');
  if (before !== undefined) batch.element(name, HOST_SHAPE, true, bytes, before);
  if (value === undefined) held.remove(key);
  else {
    batch.element(name, HOST_SHAPE, false, bytes, value);
    held.set(held.insert(key), 0, value);
  }
}

/** Keys that differ between desired and held, one after the other; keys are words. */
export function differences(held: WordTable, desired: Hosts): Uint32Array {
  const width = held.keyWords;
  let found = new Uint32Array(1024);
  let length = 0;
  const push = (key: Uint32Array): void => {
    if (length + width > found.length) {
      const larger = new Uint32Array(found.length * 2);
      larger.set(found);
      found = larger;
    }
    found.set(key, length);
    length += width;
  };
  held.forEach((slot) => {
    const key = held.keyAt(slot);
    if (desired.lookup(key, 0) === undefined) push(key);
  });
  desired.forEach((slot) => {
    const key = desired.keyAt(slot);
    if (held.lookup(key, 0) !== desired.get(slot, 0)) push(key);
  });
  return found.subarray(0, length);
}
