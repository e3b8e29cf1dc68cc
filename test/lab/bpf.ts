import { mkdtempSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { host } from './namespace.ts';

/** A BPF file system of a test: what is pinned there is gone, with all that it kept attached, when it is closed. */
export class BpfFileSystem {
  readonly path = mkdtempSync(join(tmpdir(), 'mesh-bpf-'));

  constructor() {
    host('mount', '-t', 'bpf', 'bpf', this.path);
  }

  close(): void {
    host('umount', this.path);
    rmdirSync(this.path);
  }
}
