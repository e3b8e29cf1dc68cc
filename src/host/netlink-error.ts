import { MeshError } from '../core/errors.ts';
import { describeErrno } from './errno.ts';

export interface NetlinkFailure {
  /** The positive errno number. */
  readonly errno: number;
  /** Sequence number of the message that failed; 0 when none can be named. */
  readonly seq?: number;
  /** The kernel's own words (extended acknowledgement). */
  readonly detail?: string;
  /** What was tried. */
  readonly operation: string;
}

/** HST-NETLINK, or HST-PERMISSION for EPERM and EACCES; `errno` and `errnoName` tell callers what the kernel said. */
export class NetlinkError extends MeshError {
  readonly errno: number;
  /** `ENODEV`, `EEXIST`, ... */
  readonly errnoName: string;
  readonly seq: number;

  constructor(failure: NetlinkFailure) {
    const [name, text] = describeErrno(failure.errno);
    const detail = failure.detail === undefined || failure.detail === '' ? '' : `: ${failure.detail}`;
    const permission = name === 'EPERM' || name === 'EACCES';
    super(permission ? 'HST-PERMISSION' : 'HST-NETLINK', `${failure.operation}: ${name} (${text})${detail}`);
    this.name = 'NetlinkError';
    this.errno = failure.errno;
    this.errnoName = name;
    this.seq = failure.seq ?? 0;
  }
}
