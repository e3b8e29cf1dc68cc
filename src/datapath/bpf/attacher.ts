/** Where a program sits on a device. */
export type End = 'enter' | 'leave';
export const ENDS: readonly End[] = ['enter', 'leave'];

export interface Attachment {
  /** Index of the device. */
  readonly device: number;
  readonly end: End;
}

export interface LoadedProgram {
  readonly fd: number;
  readonly id: number;
}

/** A way to put programs on devices that outlives us. */
export interface Attacher {
  readonly name: 'tcx' | 'clsact';
  /** What we have attached, with the number of the program. */
  list(): Promise<(Attachment & { readonly program: number })[]>;
  /** Attaches, or exchanges what is attached without a moment in between. @throws MeshError */
  put(to: Attachment, program: LoadedProgram): Promise<void>;
  drop(from: Attachment): Promise<void>;
  close(): void;
}

export function attachmentKey({ device, end }: Attachment): string {
  return `${device} ${end}`;
}
