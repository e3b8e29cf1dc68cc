import type { StatusRecord } from '../../src/api/types.ts';
import { CROSS_CLUSTER, type Demo, everyone, NARROWED, showReach, versions } from './demo-parts.ts';
import { Screen } from './demo-screen.ts';
import { ServiceChapter } from './demo-service.ts';
import { type Expected, PORTS, placeOf, serveEverywhere } from './matrix.ts';
import { MeshLab, WORKLOAD } from './mesh-lab.ts';
import { until } from './namespace.ts';
import type { Place } from './place.ts';

/** A machine that joins a cluster of Cilium 1.16 by itself, and reads the other one by a file. */
export class DirectDemo implements Demo {
  readonly screen = new Screen(process.stdout);
  #lab: MeshLab | undefined;
  #wrong = 0;

  get wrong(): number {
    return this.#wrong;
  }

  async run(): Promise<void> {
    const { screen } = this;
    screen.title('mesh-agent: a machine joins two Cilium clusters', versions());
    screen.chapter(
      1,
      'Two clusters and a machine',
      'Each host is a network namespace; each store is an etcd with TLS.',
    );
    await this.#build();
    screen.chapter(2, 'Joining', 'The machine registers; the administrator of cluster-a says who it is.');
    await this.#join();
    screen.chapter(3, 'Without a policy', 'Everything passes. Between pods and machine it travels in VXLAN.');
    await this.#table(everyone('all'));
    screen.remark('✔ an answer came back   ✖ nothing came   ! not as expected; v6 is the same over IPv6');
    this.#wire();
    screen.chapter(
      4,
      'One service of two clusters',
      'Reached by the address of either, from the machine; one of the clusters fails.',
    );
    this.#wrong += await new ServiceChapter(screen, this.#running).run();
    screen.chapter(5, 'Policy across clusters', 'Only app=frontend of cluster-a may reach the machine.');
    await this.#enforce();
    screen.chapter(6, 'A policy changes while connections run', 'What is no longer allowed is cut.');
    await this.#change();
    screen.chapter(7, 'Labels change in the cluster', 'Policy follows the identity, not the address.');
    await this.#relabel();
    screen.chapter(8, 'The agent dies', 'The rules stay in the kernel, and a new agent takes over what is there.');
    await this.#kill();
  }

  async close(): Promise<void> {
    const lab = this.#lab;
    this.#lab = undefined;
    await lab?.close();
  }

  /** What to try by hand while everything still runs. */
  explore(): void {
    const { agent, machine } = this.#running;
    const program = process.env.MESH_AGENT ?? 'mesh-agent';
    const at = `--socket ${agent.socket}`;
    const inside = (place: Place): string => `ip netns exec ${place.namespace.name}`;
    this.screen.chapter(9, 'Over to you', 'Everything still runs; Ctrl-C ends it and cleans up.');
    this.screen.commands([
      [`${program} status ${at}`, 'what the agent knows, and how old it is'],
      [`${program} identity list ${at}`, 'identities of both clusters'],
      [`${program} bpf ipcache list ${at}`, 'addresses as the kernel holds them'],
      [`${program} bpf policy list ${at}`, 'the policy as the kernel holds it, with counters'],
      [`${inside(machine)} nft list table inet mesh_agent`, 'the rules themselves'],
      [
        `\${EDITOR:-vi} ${agent.policies}/cross-cluster.yaml`,
        'change the policy: it is in force when the file is saved',
      ],
      [`${inside(placeOf(this.#running, 'cluster-a/frontend'))} nc -v ${machine.ipv4} 80`, 'try it from the frontend'],
      [
        `${inside(machine)} tcpdump -ni eth0 udp port 8472`,
        'the overlay on the wire; the VNI is the sender’s identity',
      ],
    ]);
  }

  get #running(): MeshLab {
    if (this.#lab === undefined) throw new Error('the demo has not begun');
    return this.#lab;
  }

  async #build(): Promise<void> {
    const { screen } = this;
    this.#lab = await screen.step('a network: router, machine my-vm, a host of the outside world', () =>
      MeshLab.start([], { workload: null, config: { services: { lossGrace: '3s' } } }),
    );
    const lab = this.#lab;
    for (const [name, id, pods] of [
      ['cluster-a', 1, { frontend: { app: 'frontend' }, batch: { app: 'batch' } }],
      ['cluster-b', 2, { frontend: { app: 'frontend' } }],
    ] as const) {
      const cluster = await screen.step(`${name}: an etcd with client certificates, a node, its pods`, () =>
        lab.add({ name, id, pods }),
      );
      for (const [pod, place] of cluster.pods)
        screen.note(`  pod ${pod.padEnd(9)} app=${pod.padEnd(9)} ${place.ipv4}  ${place.ipv6}`);
    }
    const { machine, topology } = lab;
    screen.note(`  my-vm ${machine.ipv4}  ${machine.ipv6},  world ${topology.world.ipv4}  ${topology.world.ipv6}`);
    await screen.step('echo servers everywhere, tcp/80 and udp/53', () => serveEverywhere(lab));
  }

  async #join(): Promise<void> {
    const { screen } = this;
    const lab = this.#running;
    const { agent } = lab;
    agent.start();
    await screen.step('mesh-agent run', () => agent.untilStatus('the agent answers', () => true));
    const waiting = await agent.untilStatus('it waits', ({ registration }) => registration.state === 'announced');
    screen.note(`  ${waiting.registration.waitingFor ?? waiting.registration.state}`);
    await screen.step('the administrator creates the workload my-vm with app=backend, env=production', () =>
      lab.cluster('cluster-a').workloads.apply(WORKLOAD),
    );
    const joined = await screen.step('registered with cluster-a', () => agent.untilReady());
    for (const line of identityLines(joined)) screen.note(`  ${line}`);
    await screen.step('cluster-b: one file in the clustermesh directory', async () => {
      lab.connect('cluster-b');
      await agent.untilStatus('cluster-b is ready', ({ clusters }) =>
        clusters.some(({ name, ready }) => name === 'cluster-b' && ready),
      );
    });
  }

  /** Which identities the nodes saw in the VXLAN headers of the machine. */
  #wire(): void {
    const lab = this.#running;
    for (const { name, node } of lab.clusters.values())
      this.screen.remark(`on the wire to ${name}: VXLAN network identifier ${node.seenIdentities().join(', ')}`);
  }

  async #enforce(): Promise<void> {
    const { agent } = this.#running;
    this.screen.excerpt('policies.d/cross-cluster.yaml', CROSS_CLUSTER);
    await this.#policy('the policy is in force', CROSS_CLUSTER);
    await this.#table(everyone('none', { 'cluster-a/frontend > my-vm': 'all' }));
    await agent.untilStatus('the denials are counted', ({ datapath }) => datapath.denied.ingress.packets > 0);
    const { stdout } = await agent.run('status');
    this.screen.excerpt('mesh-agent status', stdout);
  }

  async #change(): Promise<void> {
    const { screen } = this;
    const { machine } = this.#running;
    const running = await screen.step('my-vm opens a connection to the world and keeps it', () =>
      machine.open(this.#running.topology.world.ipv4, PORTS.tcp),
    );
    screen.excerpt('policies.d/cross-cluster.yaml', NARROWED);
    await this.#policy('the changed policy is in force', NARROWED);
    await screen.step('the connection to the world is cut', () =>
      until('the connection is cut', async () => (await running.check(300)) !== 'pass'),
    );
    await this.#table(this.#narrowed());
  }

  async #relabel(): Promise<void> {
    const { screen } = this;
    const lab = this.#running;
    const identity = await screen.step('cluster-a: pod batch becomes app=frontend', () =>
      lab.cluster('cluster-a').relabel('batch', { app: 'frontend' }),
    );
    screen.note(`  its identity is ${identity} now`);
    await this.#table({ ...this.#narrowed(), 'cluster-a/batch > my-vm': 'tcp' });
  }

  async #kill(): Promise<void> {
    const { screen } = this;
    const { agent } = this.#running;
    const pod = placeOf(this.#running, 'cluster-b/frontend');
    const flow = await screen.step(
      'cluster-b/frontend asks udp/53 two hundred times a second, each from another port',
      () => pod.flow(this.#running.machine.ipv4, PORTS.udp, { fresh: true, everyMs: 5 }),
    );
    await screen.step('kill -9', () => agent.kill());
    const expected: Expected = { ...this.#narrowed(), 'cluster-a/batch > my-vm': 'tcp' };
    await this.#table(expected);
    await screen.step('mesh-agent run', async () => {
      agent.start();
      await agent.untilReady();
    });
    const { sent, received } = await screen.step('it has taken over', () => flow.stop());
    screen.note(`  ${sent} requests over the kill and the restart, ${sent - received} unanswered`);
    this.#wrong += sent - received;
    await this.#table(expected);
  }

  #narrowed(): Expected {
    return everyone('none', {
      'cluster-a/frontend > my-vm': 'tcp',
      'cluster-b/frontend > my-vm': 'udp',
      'my-vm > cluster-a/frontend': 'none',
      'my-vm > cluster-a/batch': 'none',
      'my-vm > world': 'none',
    });
  }

  async #policy(what: string, text: string): Promise<void> {
    const { agent } = this.#running;
    const before = (await agent.status()).policy.revision;
    await this.screen.step(what, async () => {
      agent.policy('cross-cluster.yaml', text);
      await agent.untilStatus(
        'the new policy is in force',
        ({ policy, datapath }) => policy.revision > before && datapath.applied,
      );
    });
  }

  async #table(expected: Expected): Promise<void> {
    this.#wrong += await showReach(this.screen, this.#running, expected);
  }
}

function identityLines({ machine }: StatusRecord): string[] {
  return [
    `identity ${machine.identity} in ${machine.cluster?.name} (id ${machine.cluster?.id}), range ${machine.ranges.join(', ')}`,
    ...machine.labels.map((label) => `  ${label}`),
  ];
}
