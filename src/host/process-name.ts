import { readFileSync } from 'node:fs';

/** A process, unlike any other of this machine now or later: numbers are used again, this is not. */
export interface ProcessName {
  readonly pid: number;
  /** When it was started, in ticks since the boot (proc(5), field 22). */
  readonly started: string;
  readonly boot: string;
}

/** The name of a process that runs; undefined when it is gone or a zombie. */
export function nameOf(pid: number): ProcessName | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const started = fields[19];
    if (started === undefined || fields[0] === 'Z' || fields[0] === 'X') return undefined;
    return { pid, started, boot: bootId() };
  } catch {
    return undefined;
  }
}

export function lives(name: ProcessName): boolean {
  const now = nameOf(name.pid);
  return now !== undefined && now.started === name.started && now.boot === name.boot;
}

/** Reads what `JSON.stringify` made of a name; undefined when it is none. */
export function parseName(text: string): ProcessName | undefined {
  try {
    const { pid, started, boot } = JSON.parse(text) as Record<string, unknown>;
    if (!Number.isInteger(pid) || (pid as number) < 2 || typeof started !== 'string' || typeof boot !== 'string')
      return undefined;
    return { pid: pid as number, started, boot };
  } catch {
    return undefined;
  }
}

/** Another one after every boot; throws where the kernel tells none. */
export function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
}
