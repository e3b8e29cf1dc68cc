/**
 * What looking at verdicts costs: new connections while somebody follows all of them, against nobody, in pairs within one run;
 * and an agent in a flood of packets that its rules drop.
 */
import { readFileSync } from 'node:fs';
import type { MeshLab } from '../test/lab/mesh-lab.ts';
import { until } from '../test/lab/namespace.ts';
import { CLUSTER_A, enforce, policyFor, startStory } from '../test/lab/story.ts';
import { LOAD_SCRIPT, Load } from './load.ts';
import { compareInPairs } from './pairs.ts';
import type { Row } from './row.ts';

const TICKS_PER_SECOND = 100;
const FLOOD_MS = 10_000;
/** Each of the 10,000 datagrams that are sent a second comes so often: the machine is to drop, not to send. */
const COPIES = 16;
const FLOOD_PORT = 9;
const OPEN = policyFor('open', {
  ingress: [{ fromEntities: ['all'], toPorts: [{ ports: [{ port: '1000', endPort: 1001, protocol: 'TCP' }] }] }],
  egress: [{ toEntities: ['all'] }],
});

export async function run(): Promise<Row[]> {
  const lab = await startStory([CLUSTER_A]);
  try {
    await enforce(lab, OPEN);
    return [await following(lab), ...(await flood(lab))];
  } finally {
    await lab.close();
  }
}

/** Follows everything until it is told to stop. */
class Follower {
  readonly #leave = new AbortController();
  readonly #done: Promise<void>;
  seen = 0;

  constructor(lab: MeshLab) {
    this.#done = (async () => {
      for await (const event of lab.agent.api.flows({ follow: '1' }, this.#leave.signal))
        if ('flow' in event) this.seen++;
    })();
  }

  async stop(): Promise<void> {
    this.#leave.abort();
    await this.#done;
  }
}

async function following(lab: MeshLab): Promise<Row> {
  const { world } = lab.topology;
  const load = await Load.start(lab.machine.namespace, world.namespace);
  const measure = (): Promise<number> => load.measure('connections', lab.machine.ipv4);
  // The first ones are a burst, which comes once: what goes on is measured.
  const steady = async (): Promise<number> => {
    await measure();
    return measure();
  };
  const watched = (): boolean =>
    lab.machine.namespace.run('nft', 'list', 'set', 'inet', 'mesh_agent', 'watched').includes('elements');
  let seen = 0;
  const share = await compareInPairs(steady, async () => {
    const follower = new Follower(lab);
    await until('the kernel tells of all', watched);
    const value = await steady();
    await follower.stop();
    await until('the kernel is quiet', () => !watched());
    seen += follower.seen;
    return value;
  });
  if (seen === 0) throw new Error('nobody was told of a connection');
  return {
    name: 'new TCP connections while somebody follows all: share of nobody',
    value: share,
    unit: '%',
    bar: '> 95',
  };
}

async function flood(lab: MeshLab): Promise<Row[]> {
  const { machine, topology } = lab;
  const quiet = await changesOf(lab, FLOOD_MS / 4);
  // The router copies what is for the flood's port straight to the machine's link.
  const mac = /link\/ether (\S+)/.exec(machine.namespace.run('ip', 'link', 'show', 'eth0'))?.[1];
  const copies = Array.from({ length: COPIES }, () => 'dup to "port10"').join(' ');
  const match = `ip daddr ${machine.ipv4} udp dport ${FLOOD_PORT}`;
  const chain = `chain c { type filter hook ingress device "world" priority 0; ${match} ether daddr set ${mac} ${copies} drop; }`;
  topology.underlay.namespace.feed(`table netdev flood { ${chain}; }`, 'nft', '-f', '-');
  const sender = topology.world.namespace.start(process.execPath, [
    '--no-warnings',
    LOAD_SCRIPT,
    'flood',
    machine.ipv4,
    String(FLOOD_PORT),
  ]);
  try {
    const drops = async (): Promise<number> => (await lab.agent.status()).datapath.denied.ingress.packets;
    await until('the flood is counted', async () => (await drops()) > 10_000);
    const follower = new Follower(lab);
    const before = { at: performance.now(), cpu: cpuSeconds(lab.agent.pid), drops: await drops() };
    const changes = await changesOf(lab, FLOOD_MS);
    const seconds = (performance.now() - before.at) / 1000;
    const cpu = (cpuSeconds(lab.agent.pid) - before.cpu) / seconds;
    const rate = ((await drops()) - before.drops) / seconds;
    const seen = follower.seen / seconds;
    await follower.stop();
    return [
      { name: 'flood: drops', value: rate, unit: '/s', bar: '> 100000' },
      { name: 'flood: shown to one who follows', value: seen, unit: '/s' },
      {
        name: 'flood: CPU of the agent, with a change of policy all the time',
        value: cpu * 100,
        unit: '% of a core',
        bar: '< 50',
      },
      { name: 'flood: a policy to the kernel, p50', value: changes.p50, unit: 'ms', bar: '< 100' },
      { name: 'flood: a policy to the kernel, p99', value: changes.p99, unit: 'ms' },
      { name: 'no flood: a policy to the kernel, p50', value: quiet.p50, unit: 'ms' },
      { name: 'no flood: a policy to the kernel, p99', value: quiet.p99, unit: 'ms' },
    ];
  } finally {
    sender.kill();
    topology.underlay.namespace.run('nft', 'delete', 'table', 'netdev', 'flood');
  }
}

/** Changes a policy again and again, one at a time; from the request to the kernel, milliseconds. */
async function changesOf(lab: MeshLab, ms: number): Promise<{ p50: number; p99: number }> {
  const took: number[] = [];
  const end = performance.now() + ms;
  for (let port = 2000; performance.now() < end; port++) {
    const ingress = [{ fromEntities: ['all'], toPorts: [{ ports: [{ port: String(port), protocol: 'TCP' }] }] }];
    const start = performance.now();
    await lab.agent.api.applyPolicies({ texts: [{ name: 'change.yaml', text: policyFor('change', { ingress }) }] });
    let applied = false;
    while (!applied) {
      const { datapath } = await lab.agent.status();
      applied = datapath.applied && datapath.lagMs === 0;
    }
    took.push(performance.now() - start);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  took.sort((a, b) => a - b);
  const at = (share: number): number => took[Math.min(took.length - 1, Math.floor(took.length * share))] ?? 0;
  return { p50: at(0.5), p99: at(0.99) };
}

function cpuSeconds(pid: number): number {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}
