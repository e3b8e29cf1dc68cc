import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { BpfFileSystem } from './bpf.ts';

/**
 * A network namespace of a test. Names carry the process id, so that test files run side by side; `close` takes the
 * namespace and the processes that were started in it away.
 */
export class Namespace {
  readonly name: string;
  readonly #children = new Set<ChildProcess>();
  #bpf: BpfFileSystem | undefined;
  static #count = 0;

  constructor(label: string) {
    if (Namespace.#count === 0) sweepDead();
    this.name = `mesh-${label}-${process.pid}-${Namespace.#count++}`;
    host('ip', 'netns', 'add', this.name);
    this.run('ip', 'link', 'set', 'lo', 'up');
  }

  /** The BPF file system of the machine that this namespace stands for. */
  get bpf(): BpfFileSystem {
    this.#bpf ??= new BpfFileSystem();
    return this.#bpf;
  }

  /** Runs a program to its end; its standard output. Throws with its standard error when it fails. */
  run(command: string, ...args: string[]): string {
    return host('nsenter', `--net=/run/netns/${this.name}`, command, ...args);
  }

  /** The same, but tells the exit code instead of throwing. */
  try(command: string, ...args: string[]): { code: number; stdout: string; stderr: string } {
    const result = spawnSync('nsenter', [`--net=/run/netns/${this.name}`, command, ...args], {
      encoding: 'utf8',
      timeout: 60_000,
    });
    return { code: result.status ?? -1, stdout: result.stdout, stderr: result.stderr };
  }

  /** Feeds a program's standard input: `nft -f -`. */
  feed(input: string, command: string, ...args: string[]): string {
    return hostWith(input, 'nsenter', `--net=/run/netns/${this.name}`, command, ...args);
  }

  /** Starts a program that runs on; it ends with the namespace. */
  start(
    command: string,
    args: readonly string[],
    options: { env?: NodeJS.ProcessEnv; stdio?: 'inherit' | 'pipe' } = {},
  ): ChildProcess {
    const stdio = options.stdio ?? 'pipe';
    const child = spawn('nsenter', [`--net=/run/netns/${this.name}`, command, ...args], {
      stdio: [stdio === 'pipe' ? 'pipe' : 'ignore', stdio, stdio],
      env: { ...process.env, ...options.env },
    });
    this.#children.add(child);
    child.once('exit', () => this.#children.delete(child));
    return child;
  }

  /** A veth pair from `device` here to `peerDevice` in another namespace, both up, addresses given as prefixes. */
  connect(
    peer: Namespace,
    ends: { device: string; peerDevice: string; addresses?: readonly string[]; peerAddresses?: readonly string[] },
  ): void {
    this.run('ip', 'link', 'add', ends.device, 'type', 'veth', 'peer', 'name', ends.peerDevice, 'netns', peer.name);
    for (const [where, device, addresses] of [
      [this, ends.device, ends.addresses ?? []],
      [peer, ends.peerDevice, ends.peerAddresses ?? []],
    ] as const) {
      for (const address of addresses) {
        const noDad = address.includes(':') ? ['nodad'] : [];
        where.run('ip', 'address', 'add', address, 'dev', device, ...noDad);
      }
      where.run('ip', 'link', 'set', device, 'up');
    }
  }

  async close(): Promise<void> {
    await Promise.all([...this.#children].map(endProcess));
    spawnSync('ip', ['netns', 'delete', this.name]);
    this.#bpf?.close();
  }
}

/** Takes away what a run that was killed left: namespaces whose name carries the id of a process that is gone. */
function sweepDead(): void {
  for (const name of existsSync('/run/netns') ? readdirSync('/run/netns') : []) {
    const pid = /^mesh-.+-(\d+)-\d+$/.exec(name)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) spawnSync('ip', ['netns', 'delete', name]);
  }
}

/** Ends one process that we started, by its own handle. */
export async function endProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), 5000);
  await ended;
  clearTimeout(timer);
}

export function host(command: string, ...args: string[]): string {
  return hostWith('', command, ...args);
}

function hostWith(input: string, command: string, ...args: string[]): string {
  const result = spawnSync(command, args, { encoding: 'utf8', input, timeout: 60_000 });
  if (result.status !== 0) {
    throw new Error(
      `${[command, ...args].join(' ')}: ${result.error?.message ?? `exit ${result.status}`}\n${result.stderr}`,
    );
  }
  return result.stdout;
}

/** Waits until a condition holds; names what was waited for when it never does. */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  timeoutMs = 10_000,
): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`not within ${timeoutMs / 1000} s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
