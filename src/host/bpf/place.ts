import { closeSync, existsSync, openSync, readFileSync, statfsSync } from 'node:fs';
import { join } from 'node:path';
import { MeshError } from '../../core/errors.ts';
import { describeErrno } from '../errno.ts';
import { native } from '../load-native.ts';

/** Where pins go: systemd mounts it on every machine. */
export const BPF_FILE_SYSTEM = '/sys/fs/bpf';
const BPF_FS_MAGIC = 0xcafe4a11;

/** Whether pins can be kept. */
export function hasBpfFileSystem(path = BPF_FILE_SYSTEM): boolean {
  try {
    return statfsSync(path).type >>> 0 === BPF_FS_MAGIC;
  } catch {
    return false;
  }
}

/**
 * A descriptor of the cgroup that every process of the machine is in. @throws MeshError when there is none in sight: no
 * cgroup2 is mounted, or we are in a container that has a part of it alone.
 */
export function openRootCgroup(mounts = readFileSync('/proc/self/mountinfo', 'utf8')): number {
  const found = cgroupMounts(mounts);
  // Every cgroup but the root has a type.
  const root = found.find((path) => !existsSync(join(path, 'cgroup.type')));
  if (root !== undefined) return openSync(root, 'r');
  const seen =
    found.length === 0 ? 'no cgroup2 file system is mounted' : `${found.join(', ')} is a part of the cgroups alone`;
  throw new MeshError('HST-NO-BPF', seen);
}

export function closeCgroup(fd: number): void {
  closeSync(fd);
}

/** Mount points of cgroup2, in the format of proc_pid_mountinfo(5). */
function cgroupMounts(mounts: string): string[] {
  return mounts.split('\n').flatMap((line) => {
    const [left = '', right = ''] = line.split(' - ', 2);
    const [, , , , point] = left.split(' ');
    if (!right.startsWith('cgroup2 ') || point === undefined) return [];
    return [point.replace(/\\(\d{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)))];
  });
}

/** The cookie of our network namespace. @throws MeshError before Linux 5.14 */
export function networkNamespaceCookie(): bigint {
  const cookie = native().namespaceCookie();
  if (typeof cookie === 'bigint') return cookie;
  const [name, text] = describeErrno(-cookie);
  throw new MeshError(
    'HST-NO-BPF',
    `the kernel does not tell its network namespaces apart (${name}, ${text}): it is older than 5.14`,
  );
}
