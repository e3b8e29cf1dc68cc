import { native } from '../load-native.ts';
import { attributes, BpfError, bpf, COMMAND, objectInfo, writeName } from './command.ts';
import type { BpfMap } from './map.ts';
import type { BpfProgram } from './object.ts';

/** Types of program and attachment: `enum bpf_prog_type`, `enum bpf_attach_type`. */
export interface ProgramKind {
  readonly type: number;
  readonly attach: number;
}

/** Programs that see an address that a socket uses, and those that see the socket. */
export const SOCKET_ADDRESS = 18;
export const SOCKET = 9;
export const CLASSIFIER: ProgramKind = { type: 3, attach: 0 };
/** Of links to a device (Linux 6.6), and the flag that puts one before all that are there. */
export const TCX = { ingress: 46, egress: 47, before: 8 } as const;

const INSTRUCTION = 8;
/** The first half of a 64-bit constant, with the descriptor of a map for its source. */
const WIDE_CONSTANT = 0x18;
const MAP_DESCRIPTOR = 1;
const LOG_BYTES = 1 << 20;
/** What it says of its licence opens no helper that is for GPL programs alone: none is used. */
const LICENCE = Buffer.from('none\0');

/** Loads a program. @returns its descriptor. @throws BpfError with the verifier's log */
export function loadProgram(
  program: BpfProgram,
  kind: ProgramKind,
  maps: ReadonlyMap<string, Pick<BpfMap, 'fd'>>,
): number {
  const instructions = Buffer.from(program.instructions, 'base64');
  for (const [number, name] of program.maps) {
    const at = number * INSTRUCTION;
    const map = maps.get(name);
    if (map === undefined || instructions[at] !== WIDE_CONSTANT)
      throw new Error(`${program.name} does not refer to the map ${name}`);
    instructions[at + 1] = ((instructions[at + 1] as number) & 0x0f) | (MAP_DESCRIPTOR << 4);
    instructions.writeInt32LE(map.fd, at + 4);
  }
  const load = (log: Buffer | undefined): number => {
    const attr = attributes(72, {
      0: kind.type,
      4: instructions.length / INSTRUCTION,
      24: log === undefined ? 0 : 1,
      28: log?.length ?? 0,
      68: kind.attach,
    });
    writeName(attr, 48, program.name);
    const pointers = [8, instructions, 16, LICENCE, ...(log === undefined ? [] : [32, log])];
    return native().bpf(COMMAND.programLoad, attr, ...pointers);
  };
  const fd = load(undefined);
  if (fd >= 0) return fd;
  // Once more, for what the verifier has to say.
  const log = Buffer.alloc(LOG_BYTES);
  const again = load(log);
  if (again >= 0) return again;
  const text = log.toString('latin1', 0, log.indexOf(0)).trim().split('\n').slice(-30).join('\n');
  throw new BpfError({ errno: -again, operation: `load the eBPF program ${program.name}`, detail: text });
}

/** The number that the kernel has for a loaded program. */
export function programId(fd: number): number {
  return objectInfo(fd, 16).readUInt32LE(4);
}

/** Where a program is attached. */
export interface LinkInfo {
  readonly program: number;
  /** Of the cgroup or device; 0 when it was detached by force or went away. */
  readonly target: bigint;
}

/** Attaches a program; it stays until the last descriptor and pin of the link are gone. @throws BpfError */
export function createLink(options: { program: number; target: number; attach: number; flags?: number }): number {
  const { program, target, attach, flags = 0 } = options;
  return bpf({
    command: COMMAND.linkCreate,
    attr: attributes(48, { 0: program, 4: target, 8: attach, 12: flags }),
    operation: 'attach an eBPF program',
  });
}

/** Another program in the same place, without a moment in between. @throws BpfError */
export function updateLink(link: number, program: number): void {
  bpf({
    command: COMMAND.linkUpdate,
    attr: attributes(16, { 0: link, 4: program }),
    operation: 'exchange an eBPF program',
  });
}

/** Of a link to a cgroup. */
export function linkInfo(link: number): LinkInfo {
  const info = objectInfo(link, 40);
  return { program: info.readUInt32LE(8), target: info.readBigUInt64LE(16) };
}

/** Of a link to a device: its index, 0 when the device is gone. */
export function deviceLinkInfo(link: number): { program: number; device: number; attach: number } {
  const info = objectInfo(link, 40);
  return { program: info.readUInt32LE(8), device: info.readUInt32LE(16), attach: info.readUInt32LE(20) };
}
