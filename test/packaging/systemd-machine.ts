import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { StatusRecord } from '../../src/api/types.ts';
import { endProcess, host, type Namespace, until } from '../lab/namespace.ts';

const BASE = join(import.meta.dirname, '../../.toolchain/rootfs/bookworm');
/** In a container the kernel's file systems are read-only unless it is said otherwise. */
const ENVIRONMENT = { SYSTEMD_NSPAWN_API_VFS_WRITABLE: 'yes', SYSTEMD_NSPAWN_UNIFIED_HIERARCHY: '1' };

export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * A Debian that boots with a real systemd, in a network namespace of the lab: what it writes lies over the common image
 * (`scripts/rootfs.sh`) and lasts from boot to boot.
 */
export class SystemdMachine {
  /** As seen from outside. */
  readonly root: string;
  readonly #namespace: Namespace;
  readonly #folder: string;
  #nspawn: ChildProcess | undefined;
  #leader = '';

  constructor(namespace: Namespace, folder: string) {
    if (!existsSync(BASE)) throw new Error(`there is no ${BASE}: scripts/setup.sh --package`);
    this.#namespace = namespace;
    this.#folder = folder;
    this.root = join(folder, 'root');
    // Not on the disk of the temporary folder: that may be an overlay itself, which cannot be an upper layer.
    mkdirSync(folder, { recursive: true });
    host('mount', '-t', 'tmpfs', '-o', 'size=1g', 'mesh-machine', folder);
    for (const name of ['root', 'upper', 'work', 'cgroup']) mkdirSync(join(folder, name));
    host('mount', '-t', 'cgroup2', 'mesh-machine', join(folder, 'cgroup'));
    const layers = `lowerdir=${BASE},upperdir=${join(folder, 'upper')},workdir=${join(folder, 'work')}`;
    host('mount', '-t', 'overlay', '-o', layers, 'mesh-machine', this.root);
    this.write('/etc/machine-id', '0123456789abcdef0123456789abcdef\n');
    this.write('/etc/hostname', 'my-vm\n');
  }

  write(path: string, text: string): void {
    const file = join(this.root, path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, text);
  }

  copy(from: string, to: string): void {
    mkdirSync(dirname(join(this.root, to)), { recursive: true });
    cpSync(from, join(this.root, to));
  }

  remove(path: string): void {
    rmSync(join(this.root, path));
  }

  read(path: string): string {
    return readFileSync(join(this.root, path), 'utf8');
  }

  has(path: string): boolean {
    return existsSync(join(this.root, path));
  }

  async boot(): Promise<void> {
    const options = [
      '--quiet',
      '--directory',
      this.root,
      '--boot',
      '--register=no',
      '--keep-unit',
      '--console=read-only',
    ];
    const rights = ['--capability=all', '--system-call-filter=bpf perf_event_open @privileged', '--resolv-conf=off'];
    const network = `--network-namespace-path=/run/netns/${this.#namespace.name}`;
    // A real machine sees its root cgroup; a container sees a part, unless it is given the whole beside it.
    const kernel = [`--bind=${this.#namespace.bpf.path}:/sys/fs/bpf`, `--bind=${join(this.#folder, 'cgroup')}:/mnt`];
    const child = spawn('systemd-nspawn', [...options, ...rights, network, ...kernel], {
      env: { ...process.env, ...ENVIRONMENT },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    const keep = (data: Buffer): void => {
      output = (output + data.toString()).slice(-4000);
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    this.#nspawn = child;
    await until(`the container begins; ${output}`, () => {
      if (child.exitCode !== null) throw new Error(`systemd-nspawn ended: ${output}`);
      this.#leader = leaderOf(child.pid ?? 0) ?? '';
      return this.#leader !== '';
    });
    await until(
      'multi-user.target',
      async () => (await this.run('systemctl', 'is-active', 'multi-user.target')).stdout === 'active\n',
      60_000,
    );
  }

  /** Shuts down in good order. */
  async shutdown(): Promise<void> {
    const child = this.#nspawn;
    if (child === undefined) return;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    await this.run('systemctl', '--no-block', 'poweroff');
    await ended;
    this.#nspawn = undefined;
  }

  /** Runs a program inside. */
  run(...args: string[]): Promise<Ran> {
    // Not its control groups: where we are now is as good, and needs no right.
    const enter = ['-t', this.#leader, '-m', '-u', '-i', '-n', '-p', '--root', '--wd=/'];
    const child = spawn(
      'nsenter',
      [...enter, 'env', '-i', 'PATH=/usr/sbin:/usr/bin:/sbin:/bin', 'HOME=/root', ...args],
      {
        stdio: ['ignore', 'pipe', 'pipe'],
      },
    );
    const result = { stdout: '', stderr: '' };
    child.stdout.on('data', (data: Buffer) => {
      result.stdout += data.toString();
    });
    child.stderr.on('data', (data: Buffer) => {
      result.stderr += data.toString();
    });
    return new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code) => resolve({ code: code ?? -1, ...result }));
    });
  }

  /** The same, but a failure is one of the test. */
  async must(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.run(...args);
    if (code !== 0) throw new Error(`${args.join(' ')}: exit ${code}\n${stdout}${stderr}\n${await this.journal()}`);
    return stdout;
  }

  async journal(): Promise<string> {
    const { stdout } = await this.run('journalctl', '-o', 'cat', '--no-pager', '-n', '60', '-u', 'mesh-agent*');
    return stdout;
  }

  /** Properties of a unit. */
  async show(unit: string, ...properties: string[]): Promise<Record<string, string>> {
    const text = await this.must('systemctl', 'show', unit, ...properties.map((property) => `--property=${property}`));
    return Object.fromEntries(
      text
        .trim()
        .split('\n')
        .map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
    );
  }

  /** Of the agent; undefined while it does not answer. */
  async status(): Promise<StatusRecord | undefined> {
    const { stdout } = await this.run('mesh-agent', 'status', '-o', 'json');
    return stdout === '' ? undefined : (JSON.parse(stdout) as StatusRecord);
  }

  async untilEnforced(): Promise<void> {
    await until('the machine is joined and enforces', async () => (await this.status())?.state === 'ok', 60_000);
  }

  /** Kills the agent, looks whether its rules are there still, and waits until another one enforces. */
  async killAgent(): Promise<void> {
    const { MainPID: before } = await this.show('mesh-agent', 'MainPID');
    await this.must('systemctl', 'kill', '--kill-whom=main', '--signal=KILL', 'mesh-agent');
    await this.must('nft', 'list', 'table', 'inet', 'mesh_agent');
    const again = async (): Promise<boolean> => {
      const { MainPID, ActiveState } = await this.show('mesh-agent', 'MainPID', 'ActiveState');
      return ActiveState === 'active' && MainPID !== before && MainPID !== '0';
    };
    await until('another process runs', again, 30_000);
    await this.untilEnforced();
  }

  /** What the kernel holds at the moment when a network service may begin, of the next boot on; `witnessed` tells it. */
  async watchBoots(): Promise<void> {
    this.write(
      '/etc/systemd/system/witness.service',
      '[Unit]\nDefaultDependencies=no\nAfter=network-pre.target\nBefore=network.target\n' +
        '[Service]\nType=oneshot\nExecStart=/bin/sh -c "(nft list table inet mesh_agent; find /sys/fs/bpf) > /root/witness 2>&1"\n' +
        '[Install]\nWantedBy=multi-user.target\n',
    );
    await this.must('systemctl', 'enable', 'witness');
  }

  witnessed(): string {
    return this.read('/root/witness');
  }

  /** Shuts down, and takes out of the kernel what that of a real machine forgets. */
  async powerOff(): Promise<void> {
    await this.shutdown();
    this.#namespace.feed('delete table inet mesh_agent\ndelete table netdev mesh_agent\n', 'nft', '-f', '-');
    this.#namespace.run('ip', 'link', 'delete', 'mesh_vxlan');
    rmSync(join(this.#namespace.bpf.path, 'mesh-agent'), { recursive: true, force: true });
  }

  /** What is pinned in its BPF file system, and the folders of that. */
  pins(): string[] {
    const all = readdirSync(this.#namespace.bpf.path, { recursive: true }).map(String).sort();
    // The kernel has some of its own there.
    return all.filter((path) => path.startsWith('mesh-agent'));
  }

  async close(): Promise<void> {
    if (this.#nspawn !== undefined) await endProcess(this.#nspawn);
    for (const mount of [this.root, join(this.#folder, 'cgroup'), this.#folder]) spawnSync('umount', ['--lazy', mount]);
  }
}

/** The init of a container, by the process that made it. */
function leaderOf(pid: number): string | undefined {
  for (const task of existsSync(`/proc/${pid}/task`) ? readdirSync(`/proc/${pid}/task`) : []) {
    for (const child of readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').trim().split(' ')) {
      if (child !== '' && readFileSync(`/proc/${child}/comm`, 'utf8') === 'systemd\n') return child;
    }
  }
  return undefined;
}
