import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { JsonWorker } from '../lab/json-worker.ts';
import { Namespace } from '../lab/namespace.ts';
import type { PacketFlow } from './kernel-flow.ts';
import type { LoadedCase } from './kernel-worker.ts';
import type { Sending } from './packet-sender.ts';
import type { VectorCase } from './vector.ts';

export interface KernelRun {
  readonly cases: number;
  /** Flows looked up in the tables that the kernel held. */
  readonly walked: number;
  /** Of these, flows that went as real packets. */
  readonly sent: number;
  /** Flows that no packet can say. */
  readonly unsaid: number;
  readonly differences: readonly string[];
}

const MACHINE = { ipv4: '100.127.255.249', ipv6: 'fd7f:77::1' };
const OUTSIDE = { ipv4: '100.127.255.250', ipv6: 'fd7f:77::2' };
/** What is to be denied is waited for so long; what is to pass may take its time on a busy machine. */
const SILENCE_MS = 350;
const ANSWER_MS = 8000;

/** Runs every vector file of a folder through the kernel; see `runKernelCases`. */
export function runKernelFolder(folder: string, perKind: number): Promise<KernelRun> {
  const files = readdirSync(folder).filter((name) => name.endsWith('.json'));
  const cases = files.sort().flatMap((file) => JSON.parse(readFileSync(join(folder, file), 'utf8')) as VectorCase[]);
  return runKernelCases(cases, perKind);
}

/**
 * Puts the policies of each case through the data path into a namespace, looks every flow up in the tables that the kernel
 * then lists, and sends some of each kind (direction, family, protocol, verdict) as packets: `perKind` of each case.
 *
 *     outside (has every address) ──eth0── machine (the data path)
 */
export async function runKernelCases(cases: readonly VectorCase[], perKind: number): Promise<KernelRun> {
  const lab = await KernelLab.start();
  const totals = { cases: 0, walked: 0, sent: 0, unsaid: 0, differences: [] as string[] };
  try {
    for (const vector of cases) {
      const { walked, unsaid } = await lab.load(vector);
      if (walked.length === 0) continue;
      const sendable = walked.filter((flow) => flow.sendable);
      const sample = sampleOf(sendable, perKind);
      const arrived = await lab.send(sample);
      const differ = (flow: PacketFlow, got: string): void => {
        totals.differences.push(`${vector.name}: ${flow.name} (${flow.peer}): expected ${flow.expected}, ${got}`);
      };
      for (const flow of walked) if (flow.got !== flow.expected) differ(flow, `the tables say ${flow.got}`);
      for (const [index, flow] of sample.entries()) {
        const got = arrived[index] === true ? 'allow' : 'deny';
        if (got !== flow.expected) differ(flow, `a packet met ${got}`);
      }
      totals.cases++;
      totals.walked += walked.length;
      totals.sent += sample.length;
      totals.unsaid += unsaid;
    }
    return totals;
  } finally {
    await lab.close();
  }
}

function sampleOf<Flow extends PacketFlow>(flows: readonly Flow[], perKind: number): Flow[] {
  const counts = new Map<string, number>();
  return flows.filter(({ direction, protocol, peer, expected }) => {
    const kind = `${direction} ${protocol} ${peer.includes(':')} ${expected}`;
    const count = (counts.get(kind) ?? 0) + 1;
    counts.set(kind, count);
    return count <= perKind;
  });
}

interface Workers {
  readonly load: JsonWorker;
  readonly machine: JsonWorker;
  readonly outside: JsonWorker;
}

class KernelLab {
  readonly #machine: Namespace;
  readonly #outside: Namespace;
  readonly #workers: Workers;
  #nextPort = 20_000;

  private constructor(machine: Namespace, outside: Namespace, workers: Workers) {
    this.#machine = machine;
    this.#outside = outside;
    this.#workers = workers;
  }

  static async start(): Promise<KernelLab> {
    const [machine, outside] = [new Namespace('kernel'), new Namespace('outside')];
    try {
      connectLab(machine, outside);
      const script = (name: string): string => join(import.meta.dirname, name);
      return new KernelLab(machine, outside, {
        load: await JsonWorker.start(machine, script('kernel-worker.ts')),
        machine: await JsonWorker.start(machine, script('packet-sender.ts')),
        outside: await JsonWorker.start(outside, script('packet-sender.ts')),
      });
    } catch (error) {
      await Promise.all([machine.close(), outside.close()]);
      throw error;
    }
  }

  async load(vector: VectorCase): Promise<LoadedCase> {
    return (await this.#workers.load.send({ vector })) as LoadedCase;
  }

  /** Each from a port of its own, so that no packet belongs to an earlier connection. @returns whether each arrived */
  async send(flows: readonly PacketFlow[]): Promise<boolean[]> {
    const arrived = new Map<PacketFlow, boolean>();
    await Promise.all(
      (['ingress', 'egress'] as const).map(async (direction) => {
        const own = flows.filter((flow) => flow.direction === direction);
        const worker = direction === 'ingress' ? this.#workers.outside : this.#workers.machine;
        const answers = (await worker.send({ sendings: own.map((flow) => this.#sending(flow)) })) as boolean[];
        for (const [index, flow] of own.entries()) arrived.set(flow, answers[index] === true);
      }),
    );
    return flows.map((flow) => arrived.get(flow) === true);
  }

  #sending({ direction, peer, protocol, port, expected }: PacketFlow): Sending {
    const own = peer.includes(':') ? MACHINE.ipv6 : MACHINE.ipv4;
    const timeoutMs = expected === 'deny' ? SILENCE_MS : ANSWER_MS;
    const fromPort = this.#nextPort++;
    if (this.#nextPort > 60_000) this.#nextPort = 20_000;
    return direction === 'ingress'
      ? { protocol, from: peer, fromPort, to: own, port, timeoutMs }
      : { protocol, fromPort, to: peer, port, timeoutMs };
  }

  async close(): Promise<void> {
    const { load, machine, outside } = this.#workers;
    await Promise.all([load.stop(), machine.stop(), outside.stop()]);
    await Promise.all([this.#machine.close(), this.#outside.close()]);
  }
}

/** The outside has every address there is: its routes take all packets in, and its sockets may speak for any of them. */
function connectLab(machine: Namespace, outside: Namespace): void {
  const settings = [
    ...['all', 'default'].flatMap((name) => [
      `net.ipv4.conf.${name}.rp_filter=0`,
      `net.ipv6.conf.${name}.accept_dad=0`,
    ]),
    // Every refusal is an answer that we wait for.
    'net.ipv4.icmp_ratelimit=0',
    'net.ipv4.icmp_msgs_per_sec=100000',
    'net.ipv6.icmp.ratelimit=0',
  ];
  for (const each of [machine, outside]) each.run('sysctl', '-q', '-w', ...settings);
  outside.run('sysctl', '-q', '-w', 'net.ipv4.ip_nonlocal_bind=1', 'net.ipv6.ip_nonlocal_bind=1');
  machine.connect(outside, {
    device: 'eth0',
    peerDevice: 'eth0',
    addresses: [`${MACHINE.ipv4}/30`, `${MACHINE.ipv6}/126`],
    peerAddresses: [`${OUTSIDE.ipv4}/30`, `${OUTSIDE.ipv6}/126`],
  });
  machine.run('ip', 'route', 'add', 'default', 'via', OUTSIDE.ipv4);
  machine.run('ip', '-6', 'route', 'add', 'default', 'via', OUTSIDE.ipv6);
  outside.run('ip', 'route', 'add', 'local', 'default', 'dev', 'lo', 'table', 'main');
  outside.run('ip', '-6', 'route', 'add', 'local', 'default', 'dev', 'lo', 'table', 'main');
  // They know each other from here on: silence that is waited for must not be the search for a neighbor.
  for (const address of [OUTSIDE.ipv4, OUTSIDE.ipv6])
    machine.run('ping', '-n', '-q', '-c', '2', '-i', '0.2', '-W', '10', address);
}

if (import.meta.main) {
  const [, , folder = '', perKind = '1'] = process.argv;
  const run = await runKernelFolder(folder, Number(perKind));
  for (const line of run.differences) process.stdout.write(`${line}\n`);
  process.stdout.write(
    `${run.cases} cases: ${run.walked} flows looked up in the kernel, ${run.sent} of them sent as packets, ` +
      `${run.unsaid} that no packet can say, ${run.differences.length} differences\n`,
  );
  process.exitCode = run.differences.length > 0 || run.walked === 0 ? 1 : 0;
}
