import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const PREFIX = 'mesh-bpf-';

/** A BPF file system of a test: what is pinned there is gone, with all that it kept attached, when it is closed. */
export class BpfFileSystem {
  readonly path: string;
  static #swept = false;

  constructor() {
    if (!BpfFileSystem.#swept) sweepDead();
    BpfFileSystem.#swept = true;
    this.path = mkdtempSync(join(tmpdir(), `${PREFIX}${process.pid}-`));
    const { status, stderr } = spawnSync('mount', ['-t', 'bpf', 'bpf', this.path], { encoding: 'utf8' });
    if (status !== 0) throw new Error(`a BPF file system cannot be mounted: ${stderr}`);
  }

  /** Runs a program, given as command and arguments, with this file system in its usual place. */
  around(...run: readonly string[]): string[] {
    const mountThere = 'mount --bind "$0" /sys/fs/bpf && exec "$@"';
    return ['unshare', '--mount', 'sh', '-c', mountThere, this.path, ...run];
  }

  close(): void {
    takeAway(this.path);
  }
}

/** Takes away what a run that was killed left. */
function sweepDead(): void {
  for (const name of readdirSync(tmpdir())) {
    const pid = name.startsWith(PREFIX) ? name.slice(PREFIX.length).split('-')[0] : undefined;
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) takeAway(join(tmpdir(), name));
  }
}

function takeAway(path: string): void {
  spawnSync('umount', ['--lazy', path]);
  rmdirSync(path);
}
