import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { CommandResult } from './daemon.ts';
import { CROSS_CLUSTER, type Demo, everyone, NARROWED, showReach, versions } from './demo-parts.ts';
import { Screen } from './demo-screen.ts';
import { ServiceChapter } from './demo-service.ts';
import { Fleet } from './hub-fleet.ts';
import { POOL, VMS } from './hub-host.ts';
import { type Expected, PORTS, placeOf, serveEverywhere } from './matrix.ts';
import type { Place } from './place.ts';

const BACKEND = 'k8s:app=backend';
/** What follows a machine that is no backend any more. */
const DATABASE = `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: databases
  namespace: production
spec:
  endpointSelector:
    matchLabels:
      app: database
  ingress:
  - fromEndpoints:
    - matchLabels:
        app: batch
        io.cilium.k8s.policy.cluster: cluster-a
`;

/** A hub between two clusters and a machine: nobody knows of anybody but by what the hub says. */
export class HubDemo implements Demo {
  readonly screen = new Screen(process.stdout);
  #fleet: Fleet | undefined;
  #wrong = 0;

  get wrong(): number {
    return this.#wrong;
  }

  async run(): Promise<void> {
    const { screen } = this;
    screen.title('mesh-agent: a hub brings machines into a mesh of Cilium clusters', versions());
    screen.chapter(1, 'Two clusters, a hub, a machine', 'Each host is a network namespace; each store is a real etcd.');
    await this.#build();
    screen.chapter(
      2,
      'The hub joins the mesh',
      'It reads the clusters, and they read it: to them it is one more cluster.',
    );
    await this.#peer();
    screen.chapter(3, 'A machine joins', 'One token, used once. Its key is made on the machine and never leaves it.');
    await this.#join();
    screen.chapter(
      4,
      'One service of two clusters',
      'Reached by the address of either, from the machine; one of the clusters fails.',
    );
    this.#wrong += await new ServiceChapter(screen, this.#running).run();
    screen.chapter(5, 'A policy at the hub', 'Handed out to all machines, enforced by those that it selects.');
    await this.#enforce();
    screen.chapter(6, 'Labels change at the hub', 'Policy follows the identity: on the machine, and in the clusters.');
    await this.#relabel();
    screen.chapter(7, 'The hub dies', 'What was in force stays in force, and comes back without a gap.');
    await this.#kill();
    screen.chapter(
      8,
      'The machine is stolen',
      'Its certificate is worth nothing from now on, and no cluster knows it.',
    );
    await this.#revoke();
  }

  async close(): Promise<void> {
    const fleet = this.#fleet;
    this.#fleet = undefined;
    await fleet?.close();
  }

  explore(): void {
    const { hub, agent, machine } = this.#running;
    const program = process.env.MESH_AGENT ?? 'mesh-agent';
    const inside = (place: Place): string => `ip netns exec ${place.namespace.name}`;
    const onHub = `--socket ${hub.socket}`;
    const onMachine = `--config ${agent.configFile} --state-dir ${agent.stateDir} --socket ${agent.socket}`;
    this.screen.chapter(9, 'Over to you', 'Everything still runs; Ctrl-C ends it and cleans up.');
    this.screen.commands([
      [`${program} hub workload token my-vm ${onHub}`, 'the machine comes back: a new token'],
      [`${inside(machine)} ${program} join --force ${onMachine} --token TOKEN`, 'and this, with it'],
      [`${program} status --socket ${agent.socket}`, 'what the agent knows, and how old it is'],
      [`${program} service get production/web --socket ${agent.socket}`, 'the service, backend by backend'],
      [`${inside(machine)} nc -v 10.97.0.10 80`, 'and its address'],
      [`${program} hub status ${onHub}`, 'the hub, part by part'],
      [`${program} hub workload list -o wide ${onHub}`, 'the machines'],
      [`${program} hub cluster status ${onHub}`, 'the clusters, prerequisite by prerequisite'],
      [`${program} hub cluster export cluster-c --form helm ${onHub}`, 'what another cluster needs to read this hub'],
      [`${program} hub audit ${onHub}`, 'who joined, who was refused, who was revoked'],
      [`${program} ipcache list --socket ${agent.socket}`, 'addresses of the whole mesh'],
      [`${inside(placeOf(this.#running, 'cluster-a/frontend'))} nc -v ${machine.ipv4} 80`, 'try it from the frontend'],
      [`${inside(machine)} tcpdump -ni eth0 udp port 8472`, 'the overlay on the wire'],
    ]);
  }

  get #running(): Fleet {
    if (this.#fleet === undefined) throw new Error('the demo has not begun');
    return this.#fleet;
  }

  async #build(): Promise<void> {
    const { screen } = this;
    const fleet = await screen.step('a network: router, hosts for a hub and a machine, the outside world', () => {
      this.#fleet = new Fleet();
      this.#fleet.machineFor('my-vm').configure({ services: { lossGrace: '3s' } });
      return this.#fleet;
    });
    for (const [name, id, pods] of [
      ['cluster-a', 1, { frontend: { app: 'frontend' }, batch: { app: 'batch' } }],
      ['cluster-b', 2, { frontend: { app: 'frontend' } }],
    ] as const) {
      const cluster = await screen.step(`${name}: an etcd with client certificates, a node, its pods`, () =>
        fleet.add({ name, id, pods }),
      );
      for (const [pod, place] of cluster.pods)
        screen.note(`  pod ${pod.padEnd(9)} app=${pod.padEnd(9)} ${place.ipv4}  ${place.ipv6}`);
    }
    const { machine, topology, hub } = fleet;
    screen.note(`  my-vm ${machine.ipv4}  ${machine.ipv6},  hub ${hub.place.ipv4},  world ${topology.world.ipv4}`);
    await screen.step('echo servers everywhere, tcp/80 and udp/53', () => serveEverywhere(fleet));
    const made = await screen.step('hub init: certificate authority, keys, configuration', () => hub.init());
    const { ipv4 } = hub.place;
    const flags = `--cluster-name ${VMS.name} --cluster-id ${VMS.id} --pool ${POOL} --name ${ipv4}`;
    screen.excerpt(`mesh-agent hub init ${flags}`, made);
    await screen.step('hub run: its own etcd with TLS and access control, and it leads', () => {
      hub.start();
      return hub.untilLeading();
    });
  }

  async #peer(): Promise<void> {
    const { screen } = this;
    const fleet = this.#running;
    for (const [name, admitted] of [['cluster-a'], ['cluster-b', [BACKEND]]] as const) {
      await screen.step(`hub cluster connect ${name}: its state is copied for the machines`, () => fleet.connect(name));
      await screen.step(`hub cluster export ${name}: its node reads the hub, as a stock Cilium does`, () =>
        fleet.peer(name, admitted),
      );
    }
    screen.remark('cluster-b has a policy of its own: its pods let in app=backend alone');
    await this.#show('hub', 'cluster', 'list');
  }

  async #join(): Promise<void> {
    const { screen } = this;
    const fleet = this.#running;
    const { agent, hub } = fleet;
    const labels = ['--label', 'app=backend', 'env=production', '--namespace', 'production'];
    screen.excerpt(
      `mesh-agent hub workload create my-vm ${labels.join(' ')}`,
      await hub.must('workload', 'create', 'my-vm', ...labels),
    );
    const token = await screen.step('hub workload token my-vm', () => fleet.token('my-vm'));
    screen.note(`  ${token.slice(0, 40)}…`);
    const began = performance.now();
    const url = `https://${hub.place.ipv4}:8443`;
    const joined = await screen.step('my-vm: mesh-agent join', () =>
      demand(agent.runThere('join', '--hub', url, '--token', token)),
    );
    screen.excerpt(`mesh-agent join --hub ${url} --token ${token.slice(0, 12)}…`, joined);
    const status = await screen.step('my-vm: mesh-agent run, registered and in sync with both clusters', () => {
      agent.start();
      return agent.untilReady(60_000);
    });
    screen.note(`  from the token to enforced in ${((performance.now() - began) / 1000).toFixed(1)} s`);
    const ip = fleet.machine.ipv4;
    for (const [name, peer] of fleet.peers) {
      const { nodes } = await peer.until('it knows the machine', () => peer.address(ip) !== undefined);
      const seen = peer.address(ip);
      screen.remark(`${name} sees: node ${nodes.map((node) => `${node.name} (${node.ranges.join(', ')})`).join()}`);
      screen.remark(`  ${ip} = identity ${seen?.identity}, tunnel endpoint ${seen?.host}`);
      screen.remark(`  ${seen?.labels.filter((label) => !label.includes('io.')).join(' ')}`);
    }
    await this.#table(everyone('all'));
    screen.remark('✔ an answer came back   ✖ nothing came   ! not as expected; v6 is the same over IPv6');
    const wire = fleet.cluster('cluster-a').node.seenIdentities().join(', ');
    screen.remark(
      `on the wire to cluster-a: VXLAN network identifier ${wire}; the hub gave ${status.machine.identity}`,
    );
  }

  async #enforce(): Promise<void> {
    await this.#policy('cross-cluster.yaml', CROSS_CLUSTER);
    await this.#table(everyone('none', { 'cluster-a/frontend > my-vm': 'all' }));
    await this.#policy('cross-cluster.yaml', NARROWED);
    await this.#table({
      ...everyone('none'),
      'cluster-a/frontend > my-vm': 'tcp',
      'cluster-b/frontend > my-vm': 'udp',
      'my-vm > cluster-a/frontend': 'none',
      'my-vm > cluster-a/batch': 'none',
      'my-vm > world': 'none',
    });
    await this.#show('status');
  }

  async #relabel(): Promise<void> {
    const { screen } = this;
    const { agent, hub } = this.#running;
    await this.#policy('databases.yaml', DATABASE);
    const text = await hub.must('workload', 'set', 'my-vm', '--label', 'app=database');
    screen.excerpt('mesh-agent hub workload set my-vm --label app=database', text);
    const { machine } = await screen.step('the machine is another one, for itself and for both clusters', async () => {
      const status = await agent.untilStatus(
        'the machine has its new identity',
        (now) =>
          now.machine.labels.includes('k8s:app=database') &&
          now.registration.state === 'registered' &&
          now.datapath.applied,
      );
      await this.#everyPeer('it knows the new labels', (labels) => labels?.includes('k8s:app=database') === true);
      return status;
    });
    screen.note(`  identity ${machine.identity}`);
    await this.#table(this.#asDatabase);
    screen.remark('cluster-b lets in app=backend alone, and my-vm is none any more');
  }

  async #kill(): Promise<void> {
    const { screen } = this;
    const fleet = this.#running;
    const { hub, agent } = fleet;
    const pod = placeOf(fleet, 'cluster-a/batch');
    const flow = await screen.step('cluster-a/batch asks udp/53 a hundred times a second, each from another port', () =>
      pod.flow(fleet.machine.ipv4, PORTS.udp, { fresh: true, everyMs: 10 }),
    );
    await screen.step('kill -9 of the hub, and its etcd with it', () => hub.kill());
    const status = await agent.untilStatus('the agent misses it', ({ kvstore }) => kvstore.state !== 'connected');
    screen.note(`  status of my-vm: ${status.kvstore.summary.split('\n')[0]}`);
    await this.#table(this.#asDatabase);
    await screen.step('hub run: it leads again, and everybody is back', async () => {
      hub.start();
      await hub.untilLeading();
      await agent.untilReady();
      for (const peer of fleet.peers.values()) await peer.until('it is back', ({ ready }) => ready);
    });
    const { sent, received } = await flow.stop();
    screen.note(`  ${sent} requests over the kill and the restart, ${sent - received} unanswered`);
    this.#wrong += sent - received;
    const lost = [...fleet.peers.values()].flatMap(({ facts }) => facts.removed.filter(isAddress));
    screen.note(`  facts about the machine that vanished from a cluster in between: ${lost.length}`);
    this.#wrong += lost.length;
  }

  async #revoke(): Promise<void> {
    const { screen } = this;
    const { agent, hub } = this.#running;
    screen.excerpt('mesh-agent hub workload revoke my-vm', await hub.must('workload', 'revoke', 'my-vm'));
    await screen.step('no cluster knows the machine any more', () =>
      this.#everyPeer('it forgot the machine', (labels) => labels === undefined),
    );
    await screen.step('the machine is told', () => agent.untilHealth('JOIN-REVOKED'));
    await this.#table({
      'cluster-a/batch > my-vm': 'none',
      'cluster-b/frontend > my-vm': 'none',
      'world > my-vm': 'none',
    });
    await this.#show('status');
    await this.#show('hub', 'workload', 'list');
    await this.#show('hub', 'audit');
    await this.#show('hub', 'status');
  }

  get #asDatabase(): Expected {
    return {
      ...everyone('none'),
      'cluster-a/batch > my-vm': 'all',
      'my-vm > cluster-b/frontend': 'none',
    };
  }

  /** Applies a policy at the hub and waits until the machine says that it is in force. */
  async #policy(file: string, text: string): Promise<void> {
    const { screen } = this;
    const { agent, hub, folder } = this.#running;
    const path = join(folder, file);
    writeFileSync(path, text);
    screen.excerpt(file, text);
    const { revision } = (await agent.status()).policy;
    await screen.step(`hub policy apply -f ${file}`, () => hub.must('policy', 'apply', '-f', path));
    await screen.step('in force on my-vm', () =>
      agent.untilStatus('the policy is in force', (now) => now.policy.revision > revision && now.datapath.applied),
    );
  }

  async #everyPeer(what: string, fine: (labels: readonly string[] | undefined) => boolean): Promise<void> {
    const { peers, machine } = this.#running;
    for (const peer of peers.values()) await peer.until(what, () => fine(peer.address(machine.ipv4)?.labels));
  }

  /** A command with what it prints: on the hub, or on the machine. */
  async #show(...args: string[]): Promise<void> {
    const { hub, agent } = this.#running;
    const [first, ...rest] = args;
    const { stdout } = await (first === 'hub' ? hub.run(...rest) : agent.run(...args));
    this.screen.excerpt(`mesh-agent ${args.join(' ')}`, stdout);
  }

  async #table(expected: Expected): Promise<void> {
    this.#wrong += await showReach(this.screen, this.#running, expected);
  }
}

function isAddress(key: string): boolean {
  return key.startsWith('ip/') || key.startsWith('nodes/');
}

async function demand(running: Promise<CommandResult>): Promise<string> {
  const { code, stdout, stderr } = await running;
  if (code !== 0) throw new Error(`exit ${code}\n${stdout}${stderr}`);
  return `${stderr}${stdout}`;
}
