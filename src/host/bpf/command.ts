import { lstatSync, readlinkSync } from 'node:fs';
import { MeshError } from '../../core/errors.ts';
import { describeErrno } from '../errno.ts';
import { native } from '../load-native.ts';

/** Commands of bpf(2), `enum bpf_cmd` in linux/bpf.h. */
export const COMMAND = {
  mapCreate: 0,
  lookup: 1,
  update: 2,
  delete: 3,
  nextKey: 4,
  programLoad: 5,
  pin: 6,
  openPinned: 7,
  info: 15,
  lookupBatch: 24,
  updateBatch: 26,
  deleteBatch: 27,
  linkCreate: 28,
  linkUpdate: 29,
} as const;

/** HST-BPF, or HST-PERMISSION for EPERM and EACCES of the whole command; `errnoName` tells callers what the kernel said. */
export class BpfError extends MeshError {
  /** `ENOENT`, `E2BIG`, ... */
  readonly errnoName: string;

  constructor(failure: { readonly errno: number; readonly operation: string; readonly detail?: string }) {
    const [name, text] = describeErrno(failure.errno);
    const detail = failure.detail === undefined || failure.detail === '' ? '' : `\n${failure.detail}`;
    // What the verifier refuses is no lack of rights, though the kernel may call it so.
    const permission = name === 'EPERM' || (name === 'EACCES' && detail === '');
    super(permission ? 'HST-PERMISSION' : 'HST-BPF', `${failure.operation}: ${name} (${text})${detail}`);
    this.name = 'BpfError';
    this.errnoName = name;
  }
}

export interface BpfCall {
  readonly command: number;
  /** `union bpf_attr`, in the byte order of the machine. */
  readonly attr: Buffer;
  /** Pairs of an offset into `attr` and the buffer whose address goes there. */
  readonly pointers?: readonly (number | Buffer)[];
  /** In the text of an error. */
  readonly operation: string;
}

/** bpf(2). @returns a descriptor or what else the command gives. @throws BpfError */
export function bpf({ command, attr, pointers = [], operation }: BpfCall): number {
  const result = native().bpf(command, attr, ...pointers);
  if (result < 0) throw new BpfError({ errno: -result, operation });
  return result;
}

/** Attributes of `bytes` length with 32-bit numbers at these offsets. */
export function attributes(bytes: number, numbers: Readonly<Record<number, number>> = {}): Buffer {
  const attr = Buffer.alloc(bytes);
  for (const [offset, value] of Object.entries(numbers)) attr.writeUInt32LE(value >>> 0, Number(offset));
  return attr;
}

/** A name as the kernel takes it: letters, digits, underscore and dot, 15 at most. */
export function writeName(attr: Buffer, offset: number, name: string): void {
  attr.write(name.replace(/[^A-Za-z0-9_.]/g, '_').slice(0, 15), offset, 'latin1');
}

/** What a descriptor stands for: `struct bpf_*_info`, filled as far as the kernel knows it. @throws BpfError */
export function objectInfo(fd: number, bytes: number): Buffer {
  const info = Buffer.alloc(bytes);
  bpf({
    command: COMMAND.info,
    attr: attributes(16, { 0: fd, 4: bytes }),
    pointers: [8, info],
    operation: 'ask for an eBPF object',
  });
  return info;
}

/** Gives an object a name in a BPF file system: it lives on without us. @throws BpfError */
export function pinObject(fd: number, path: string): void {
  bpf({
    command: COMMAND.pin,
    attr: attributes(16, { 8: fd }),
    pointers: [0, pathBytes(path)],
    operation: `pin ${path}`,
  });
}

export type ObjectKind = 'map' | 'prog' | 'link';

/**
 * @returns a descriptor of the object of this kind that is pinned there, or undefined when there is none: nothing at all, or
 * something else. @throws BpfError
 */
export function openPinned(path: string, kind: ObjectKind): number | undefined {
  try {
    const fd = bpf({
      command: COMMAND.openPinned,
      attr: attributes(16),
      pointers: [0, pathBytes(path)],
      operation: `open ${path}`,
    });
    if (kindOf(fd) === kind) return fd;
    closeObject(fd);
    return undefined;
  } catch (error) {
    if (!(error instanceof BpfError)) throw error;
    if (['ENOENT', 'ENOTDIR', 'ELOOP'].includes(error.errnoName)) return undefined;
    if (error.errnoName === 'EACCES' && isNoPin(path)) return undefined;
    throw error;
  }
}

/** From the name that the kernel gives to descriptors: every kind of object answers to questions after any other. */
function kindOf(fd: number): string | undefined {
  return /^anon_inode:\[?bpf[-_](\w+)/.exec(readlinkSync(`/proc/self/fd/${fd}`))?.[1];
}

/** A folder, or something that not even its owner may use. */
function isNoPin(path: string): boolean {
  const found = lstatSync(path, { throwIfNoEntry: false });
  return found?.isFile() !== true || (found.mode & 0o600) !== 0o600;
}

export function closeObject(fd: number): void {
  native().closeFd(fd);
}

function pathBytes(path: string): Buffer {
  return Buffer.from(`${path}\0`, 'utf8');
}
