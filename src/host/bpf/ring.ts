import { MeshError } from '../../core/errors.ts';
import { describeErrno } from '../errno.ts';
import { native } from '../load-native.ts';
import type { BpfMap } from './map.ts';

/** Hears what eBPF programs put into a ring buffer. */
export class RingBuffer {
  readonly #handle: number;

  /** `onRecord` gets each record, a view that is valid during the call. */
  constructor(map: BpfMap, onRecord: (record: Buffer) => void) {
    const handle = native().ringOpen(map.fd, map.shape.entries, (data) => readRecords(data, onRecord));
    if (handle < 0) {
      const [name, text] = describeErrno(-handle);
      throw new MeshError('HST-BPF', `listen to the ring buffer ${map.shape.name}: ${name} (${text})`);
    }
    this.#handle = handle;
  }

  /** The map must still be open. */
  close(): void {
    native().ringClose(this.#handle);
  }
}

function readRecords(data: Buffer, onRecord: (record: Buffer) => void): void {
  for (let at = 0; at + 4 <= data.length; ) {
    const length = data.readUInt32LE(at);
    onRecord(data.subarray(at + 4, at + 4 + length));
    at += 4 + ((length + 3) & ~3);
  }
}
