import { open, readdir, readFile, stat } from 'node:fs/promises';
import { request } from 'node:http';
import { arch, cpus, freemem, hostname, loadavg, release, totalmem, uptime } from 'node:os';
import { join } from 'node:path';
import type { AgentClient } from '../../api/client.ts';
import type { DoctorRecord } from '../../api/doctor-types.ts';
import type { LoadedConfig } from '../../config/load.ts';
import { shownKeys } from '../../config/show.ts';
import { messageOf } from '../../core/errors.ts';
import { configuredStores } from '../../doctor/store/store-list.ts';
import { build } from '../../host/build.ts';
import { run } from '../../host/command.ts';
import { redactValue } from '../../observe/redact.ts';
import { doctorText } from '../doctor/doctor-text.ts';
import type { Entry } from './archive.ts';
import { certificateFacts } from './certificates.ts';

export interface ContentsOptions {
  readonly client: AgentClient;
  /** Undefined when it cannot be loaded: the doctor says why. */
  readonly loaded: LoadedConfig | undefined;
  readonly examine: () => Promise<DoctorRecord>;
  /** The log goes back so far, milliseconds since the epoch. */
  readonly since: number;
  readonly env: NodeJS.ProcessEnv;
}

const COMMAND_MS = 15_000;
const MAX_OUTPUT = 8 << 20;
const MAX_LINES = 100_000;
/** Of a file of the log its end. */
const LOG_BYTES = 6 << 20;
const UNITS = ['mesh-agent', 'mesh-agent-restore', 'mesh-agent-join', 'mesh-agent-hub'];
const SYSCTLS = [
  'net/ipv4/ip_forward',
  'net/ipv4/conf/all/rp_filter',
  'net/ipv4/conf/default/rp_filter',
  'net/ipv4/conf/mesh_vxlan/rp_filter',
  'net/ipv6/conf/all/forwarding',
  'net/ipv6/conf/all/disable_ipv6',
  'net/ipv4/ip_local_port_range',
  'net/ipv4/ip_local_reserved_ports',
  'net/core/rmem_max',
  'net/core/wmem_max',
  'net/netfilter/nf_conntrack_count',
  'net/netfilter/nf_conntrack_max',
  'net/netfilter/nf_conntrack_buckets',
  'net/netfilter/nf_conntrack_tcp_be_liberal',
  'net/netfilter/nf_conntrack_tcp_loose',
  'net/bridge/bridge-nf-call-iptables',
];

/** Everything that goes in, and nothing else; what matters most comes first, since room may end. */
export function contents(options: ContentsOptions): Entry[] {
  const { client, loaded, env, since } = options;
  let examined: Promise<DoctorRecord> | undefined;
  const doctor = (): Promise<DoctorRecord> => {
    examined ??= options.examine();
    return examined;
  };
  return [
    text('doctor.txt', async () => doctorText(await doctor(), { wide: true, color: false })),
    json('doctor.json', doctor),
    json('versions.json', versions),
    json('status.json', () => client.status()),
    json('config.json', () => configuration(loaded, env)),
    json('stores.json', () => stores(loaded)),
    json('certificates.json', () => certificateFacts(loaded)),
    text('log.txt', () => logText(loaded?.config.log.file, since)),
    program('log-of-kernel.txt', 'journalctl', ['--dmesg', ...journal(since)]),
    text('metrics.txt', () => metrics(loaded)),
    list('policies.ndjson', () => policies(client)),
    list('services.ndjson', () => client.services()),
    list('nodes.ndjson', () => client.nodes()),
    list('node-health.ndjson', () => client.nodeHealth()),
    list('identities.ndjson', () => client.identities()),
    list('kernel/policy.ndjson', () => client.kernelPolicy()),
    list('kernel/services.ndjson', () => client.kernelServices()),
    program('kernel/links.txt', 'ip', ['-details', '-statistics', 'link', 'show']),
    program('kernel/addresses.txt', 'ip', ['address', 'show']),
    program('kernel/rules.txt', 'ip', ['rule', 'show']),
    text('kernel/sysctl.txt', sysctls),
    program('kernel/routes4.txt', 'ip', ['-4', 'route', 'show', 'table', 'all']),
    program('kernel/routes6.txt', 'ip', ['-6', 'route', 'show', 'table', 'all']),
    text('state-folder.txt', () => folderText(loaded?.config.stateDir)),
    text('kernel/table.nft', ownRules),
    list('endpoints.ndjson', () => client.endpoints({ all: true })),
    list('ipcache.ndjson', () => client.ipcache()),
    list('kernel/ipcache.ndjson', () => client.kernelIpcache()),
  ];
}

function text(name: string, make: () => Promise<string>): Entry {
  return {
    name,
    async *read() {
      yield await make();
    },
  };
}

function json(name: string, make: () => Promise<unknown> | unknown): Entry {
  return text(name, async () => `${JSON.stringify(redactValue(await make()), undefined, 2)}\n`);
}

/** One record a line. */
function list(name: string, records: () => AsyncIterable<object>): Entry {
  return {
    name,
    async *read() {
      for await (const record of records()) yield `${JSON.stringify(redactValue(record))}\n`;
    },
  };
}

function program(name: string, command: string, args: readonly string[]): Entry {
  return text(name, async () => {
    const options = { timeoutMs: COMMAND_MS, maxOutput: MAX_OUTPUT, cut: true, accept: [0, 1, 2] };
    const { stdout, stderr, cut } = await run(command, args, options);
    return `# ${[command, ...args].join(' ')}\n${stdout}${cut ? '\n[cut]\n' : ''}${stderr === '' ? '' : `\n# said:\n${stderr}`}`;
  });
}

/**
 * Rules alone: for the elements nft would need a gigabyte where there are a million. It reads them all when it is asked for one
 * table, whatever it is to show of it; asked for all tables, it does not.
 */
async function ownRules(): Promise<string> {
  const args = ['--stateless', '--terse', 'list', 'ruleset', 'inet'];
  const { stdout } = await run('nft', args, { timeoutMs: COMMAND_MS, maxOutput: MAX_OUTPUT, cut: true });
  const [table = 'there is no table inet mesh_agent\n'] = /^table inet mesh_agent \{$[\s\S]*?^\}$/m.exec(stdout) ?? [];
  return `# nft ${args.join(' ')}\n${table}\n`;
}

/** The newest lines first: should there be too many, the oldest are missing. */
function journal(since: number): string[] {
  const from = ['--since', `@${Math.floor(since / 1000)}`];
  return [...from, '--lines', String(MAX_LINES), '--reverse', '--no-pager', '--quiet', '--output', 'short-iso'];
}

/** From the file of the configuration, as `mesh-agent logs`; else from the journal of all our units. */
async function logText(file: string | undefined, since: number): Promise<string> {
  if (file === undefined) {
    const units = UNITS.flatMap((unit) => ['--unit', unit]);
    const { stdout } = await run('journalctl', [...units, ...journal(since)], {
      timeoutMs: COMMAND_MS,
      maxOutput: MAX_OUTPUT,
      cut: true,
    });
    return stdout;
  }
  const handle = await open(file);
  try {
    const { size } = await handle.stat();
    const length = Math.min(size, LOG_BYTES);
    const { buffer, bytesRead } = await handle.read({ buffer: Buffer.alloc(length), position: size - length });
    return `${length < size ? '[the end of it]\n' : ''}${buffer.toString('utf8', 0, bytesRead)}`;
  } finally {
    await handle.close();
  }
}

async function versions(): Promise<object> {
  const osRelease = await readFile('/etc/os-release', 'utf8').catch(messageOf);
  const nft = await run('nft', ['--version'], { timeoutMs: COMMAND_MS }).then(({ stdout }) => stdout.trim(), messageOf);
  return {
    program: build,
    node: process.versions,
    kernel: release(),
    arch: arch(),
    host: hostname(),
    uptimeSeconds: Math.round(uptime()),
    load: loadavg(),
    cpus: cpus().length,
    memory: { total: totalmem(), free: freemem() },
    nft,
    osRelease: osRelease.split('\n'),
  };
}

function configuration(loaded: LoadedConfig | undefined, env: NodeJS.ProcessEnv): object {
  if (loaded === undefined) return { problem: 'it cannot be loaded: see doctor.txt' };
  return {
    files: loaded.files,
    // As `mesh-agent config show`: secrets have no value there.
    keys: shownKeys(loaded),
    variables: Object.keys(env).filter((name) => name.startsWith('MESH_AGENT_')),
  };
}

/** Where stores are and by which files they are reached. */
async function stores(loaded: LoadedConfig | undefined): Promise<object[]> {
  if (loaded === undefined) return [];
  return (await configuredStores(loaded.config)).map(({ name, joined, etcd, problem }) => ({
    name,
    joined,
    ...(problem !== undefined && { problem: problem.message }),
    endpoints: etcd?.endpoints,
    files: { ca: etcd?.ca, cert: etcd?.cert, key: etcd?.key },
    asUser: etcd?.username !== undefined,
  }));
}

/** With their rules as they were understood; what they say of HTTP headers is left out. */
async function* policies(client: AgentClient): AsyncGenerator<object> {
  for await (const { name } of client.policies())
    yield await client.policy(name).catch((error: unknown) => ({ name, problem: messageOf(error) }));
}

async function sysctls(): Promise<string> {
  const lines = await Promise.all(
    SYSCTLS.map(async (name) => {
      const value = await readFile(`/proc/sys/${name}`, 'utf8').catch(() => '-');
      return `${name.replaceAll('/', '.')} = ${value.trim()}`;
    }),
  );
  return `${lines.join('\n')}\n`;
}

/** Names, modes, sizes and times; no contents. */
async function folderText(folder: string | undefined): Promise<string> {
  if (folder === undefined) return 'the configuration cannot be loaded\n';
  const names = (await readdir(folder, { recursive: true })).sort().slice(0, 10_000);
  const lines = await Promise.all(
    names.map(async (name) => {
      const { mode, size, mtime } = await stat(join(folder, name));
      return `${(mode & 0o7777).toString(8).padStart(4, '0')} ${size} ${mtime.toISOString()} ${name}`;
    }),
  );
  return `${folder}\n${lines.join('\n')}\n`;
}

async function metrics(loaded: LoadedConfig | undefined): Promise<string> {
  const listen = loaded?.config.metrics.listen ?? '';
  if (listen === '') return 'metrics are not served\n';
  return new Promise((resolve, reject) => {
    const sent = request(`http://${listen}/metrics`, { timeout: COMMAND_MS }, (response) => {
      let body = '';
      response.setEncoding('utf8');
      response.on('data', (piece: string) => {
        body += piece;
        if (body.length > MAX_OUTPUT) response.destroy();
      });
      response.on('close', () => resolve(body));
    });
    sent.on('timeout', () => sent.destroy(new Error('no answer')));
    sent.on('error', reject);
    sent.end();
  });
}
