import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { NodeHealthRecord } from '../../src/api/node-health-types.ts';
import type { MeshLab } from '../lab/mesh-lab.ts';
import { until } from '../lab/namespace.ts';
import { CLUSTER_A, enforce, policyFor, startStory } from '../lab/story.ts';
import type { ClusterNode } from '../lab/topology.ts';

/**
 * Nodes that answer probes as cilium-health does, and nodes that do not: `node-1` with a health endpoint behind the tunnel,
 * `closed` without anybody on the port, `muted` that swallows echo requests, `gone` that is nowhere.
 */
let lab: MeshLab;
const nodes = new Map<string, ClusterNode>();

/** Nothing of the product: what a Cilium node serves. */
const RESPONDER = `
  const { createServer } = require('node:http');
  createServer((q, r) => { r.statusCode = q.url === '/hello' ? 200 : 404; r.end(); }).listen(4240, '::');`;

before(async () => {
  lab = await startStory([CLUSTER_A], { config: { health: { enabled: true, interval: 5, timeout: 1 } } });
  const { topology } = lab;
  const { facts, node } = lab.cluster('cluster-a');
  nodes.set('node-1', node);
  nodes.set('closed', topology.node('closed', { cluster: 1, index: 2 }));
  nodes.set('muted', topology.node('muted', { cluster: 1, index: 3 }));
  const pod = node.pod('health', 200);
  node.identify(pod, 4);
  for (const place of [node.place, pod, nodes.get('muted')?.place])
    place?.namespace.start(process.execPath, ['-e', RESPONDER]);
  nodes.get('muted')?.place.namespace.feed(
    `table inet mute {
       chain input {
         type filter hook input priority 0;
         icmp type echo-request drop;
         icmpv6 type echo-request drop;
       }
     }`,
    'nft',
    '-f',
    '-',
  );
  // The router address of a node is its own.
  node.place.namespace.run('ip', 'address', 'add', '10.244.1.1/32', 'dev', 'lo');
  for (const [name, { place, range4, range6 }] of nodes)
    await facts.node({
      name,
      ipv4: place.ipv4,
      ipv6: place.ipv6,
      range4,
      range6,
      ...(name === 'node-1' && { healthIpv4: pod.ipv4, healthIpv6: pod.ipv6, router: '10.244.1.1' }),
    });
  await facts.node({ name: 'gone', ipv4: '192.168.100.99' });
});
after(() => lab?.close());

async function probed(): Promise<ReadonlyMap<string, NodeHealthRecord>> {
  const { code, stderr } = await lab.agent.run('health', '--probe');
  assert.ok(code === 0 || code === 4, stderr);
  const found = new Map<string, NodeHealthRecord>();
  for await (const each of lab.agent.api.nodeHealth()) found.set(each.name, each);
  return found;
}

/** `192.168.100.21 direct icmp=ok http=ok` */
function paths(node: NodeHealthRecord | undefined): string[] {
  return (node?.addresses ?? []).map(
    ({ ip, path, icmp, http }) => `${ip} ${path} icmp=${icmp.state}${http === undefined ? '' : ` http=${http.state}`}`,
  );
}

test('nodes are probed on their own addresses and behind the tunnel, in both families, and each fault is told apart', async () => {
  await until('node-1 is reachable', async () => (await probed()).get('node-1')?.state === 'reachable', 20_000);
  const seen = await probed();
  assert.deepEqual(paths(seen.get('node-1')), [
    '192.168.100.21 direct icmp=ok http=ok',
    'fd00:100::21 direct icmp=ok http=ok',
    '10.244.1.200 tunnel icmp=ok http=ok',
    'fd00:244:1::200 tunnel icmp=ok http=ok',
    '10.244.1.1 tunnel icmp=ok',
  ]);
  assert.deepEqual(paths(seen.get('closed')), [
    '192.168.100.22 direct icmp=ok http=failed',
    'fd00:100::22 direct icmp=ok http=failed',
  ]);
  assert.equal(seen.get('closed')?.addresses[0]?.http?.reason, 'connection refused');
  assert.deepEqual(paths(seen.get('muted')), [
    '192.168.100.23 direct icmp=failed http=ok',
    'fd00:100::23 direct icmp=failed http=ok',
  ]);
  assert.deepEqual(paths(seen.get('gone')), ['192.168.100.99 direct icmp=failed http=failed']);
  const latency = seen.get('node-1')?.addresses[0]?.icmp.latencyMs ?? 0;
  assert.ok(latency > 0 && latency < 1000, `${latency} ms`);
});

test('the nodes of a cluster that do not answer are one trouble, begun once, and over when they answer', async () => {
  const record = await lab.agent.untilHealth('MSH-UNREACHABLE', 'cluster/cluster-a');
  assert.match(record.text, /^3 of 4 nodes do not answer probes: /);
  assert.match(record.text, /closed \(192\.168\.100\.22: HTTP connection refused\)/);
  assert.equal(record.severity, 'warning');
  assert.equal((await lab.agent.status()).state, 'ok');
  const lines = (): string[] => lab.agent.log.split('\n').filter((line) => line.includes('MSH-UNREACHABLE'));
  await until('the log has it', () => lines().length > 0);
  assert.equal(lines().length, 1, lines().join('\n'));
});

test('the command says it in the shape of cilium-health, and its exit code tells that a node is silent', async () => {
  const all = await lab.agent.run('health');
  assert.equal(all.code, 4);
  assert.match(all.stdout, /^Probe time: +20[0-9-]+T[0-9:]+Z\nCluster health: +1\/4 reachable, 3 unreachable\n/);
  assert.match(
    all.stdout,
    / {2}cluster-a\/node-1:\n {4}Host connectivity to 192\.168\.100\.21:\n {6}ICMP to stack: +OK, RTT=/,
  );
  assert.match(all.stdout, / {4}Endpoint connectivity to 10\.244\.1\.200 through the tunnel:\n/);
  assert.match(all.stdout, / {4}Router connectivity to 10\.244\.1\.1 through the tunnel:\n/);
  const failing = await lab.agent.run('health', 'status', '--failing', '--succinct');
  assert.doesNotMatch(failing.stdout, /node-1/);
  assert.match(failing.stdout, /cluster-a\/muted +unreachable +192\.168\.100\.23 +failed: no answer +ok [0-9.]+ms/);
  const one = await lab.agent.run('health', 'get', 'cluster-a/node-1');
  assert.equal(one.code, 0);
  assert.match(one.stdout, /^ {2}cluster-a\/node-1:\n/);
  assert.equal((await lab.agent.run('health', 'get', 'nobody')).code, 1);
  const { stdout } = await lab.agent.run('status');
  assert.match(stdout, /Cluster health: 1\/4 reachable, 3 unreachable \(20/);
});

test('a probe of a stock node is answered: echo, 200 without a body, 404 for everything else, on the node addresses alone', () => {
  const { place } = nodes.get('closed') ?? assert.fail();
  for (const address of ['192.168.100.10', '[fd00:100::10]']) {
    const hello = place.namespace.run('curl', '-sgi', '-m', '5', `http://${address}:4240/hello`);
    assert.match(hello, /^HTTP\/1\.1 200 /);
    assert.equal(hello.split('\r\n\r\n')[1], '');
    assert.match(place.namespace.run('curl', '-sgi', '-m', '5', `http://${address}:4240/metrics`), /^HTTP\/1\.1 404 /);
  }
  place.namespace.run('ping', '-c', '1', '-W', '2', '192.168.100.10');
  const listeners = lab.machine.namespace.run('ss', '-Hltn', 'sport = 4240').trim().split('\n');
  assert.deepEqual(listeners.map((line) => line.split(/\s+/)[3]).sort(), [
    '192.168.100.10:4240',
    '[fd00:100::10]:4240',
  ]);
});

test('a probe that the own policy blocks is called blocked, not unreachable, and one that it refuses is named', async () => {
  await enforce(
    lab,
    policyFor('shut', { ingress: [{}], egress: [{ toPorts: [{ ports: [{ port: '53', protocol: 'UDP' }] }] }] }),
  );
  const out = await probed();
  assert.deepEqual(paths(out.get('node-1')).slice(0, 2), [
    '192.168.100.21 direct icmp=blocked http=blocked',
    'fd00:100::21 direct icmp=blocked http=blocked',
  ]);
  assert.match(
    out.get('node-1')?.addresses[0]?.http?.reason ?? '',
    /^no egress policy allows it \(CiliumNetworkPolicy\/production\/shut\)$/,
  );
  assert.equal(out.get('node-1')?.state, 'blocked');
  assert.equal((await lab.agent.status()).nodeHealth?.unreachable, 0);
  await enforce(lab, policyFor('shut', { ingress: [{ fromEndpoints: [{ matchLabels: { app: 'frontend' } }] }] }));
  const { refuses } = (await lab.agent.status()).nodeHealth ?? assert.fail();
  assert.deepEqual(
    refuses.map((each) => each.split(':')[0]),
    ['tcp/4240 from remote nodes', 'ICMP echo from remote nodes', 'ICMP echo from remote nodes'],
  );
  const { place } = nodes.get('node-1') ?? assert.fail();
  assert.notEqual(place.namespace.try('curl', '-s', '-m', '1', 'http://192.168.100.10:4240/hello').code, 0);
  const allowed = {
    ingress: [
      { fromEntities: ['remote-node'], toPorts: [{ ports: [{ port: '4240', protocol: 'TCP' }] }] },
      {
        fromEntities: ['remote-node'],
        icmps: [
          {
            fields: [
              { type: 8, family: 'IPv4' },
              { type: 128, family: 'IPv6' },
            ],
          },
        ],
      },
    ],
  };
  await enforce(lab, policyFor('shut', allowed));
  assert.deepEqual((await lab.agent.status()).nodeHealth?.refuses, []);
  place.namespace.run('curl', '-sf', '-m', '5', 'http://192.168.100.10:4240/hello');
  place.namespace.run('ping', '-c', '1', '-W', '2', '192.168.100.10');
});

test('a flood of silent connections from one source neither shuts out other nodes nor grows', async () => {
  const flood = `
    const { connect } = require('node:net');
    setInterval(() => { for (let i = 0; i < 50; i++) connect(4240, '192.168.100.10').on('error', () => {}); }, 20);
    setTimeout(() => process.stdout.write('flooding'), 500);`;
  const { place } = nodes.get('muted') ?? assert.fail();
  const child = place.namespace.start(process.execPath, ['-e', flood]);
  await new Promise((resolve) => child.stdout?.once('data', resolve));
  const { place: other } = nodes.get('closed') ?? assert.fail();
  for (let i = 0; i < 5; i++) other.namespace.run('curl', '-sf', '-m', '5', 'http://192.168.100.10:4240/hello');
  const sockets = lab.machine.namespace.run('ss', '-Htn', 'state', 'established', 'sport = 4240').trim().split('\n');
  assert.ok(sockets.length < 200, `${sockets.length} sockets`);
  child.kill();
  const { code } = await lab.agent.run('status', '--brief');
  assert.equal(code, 0);
});

test('what was silent answers: the trouble is over by itself', async () => {
  const { facts } = lab.cluster('cluster-a');
  await facts.unset('nodes', 'gone');
  nodes.get('closed')?.place.namespace.start(process.execPath, ['-e', RESPONDER]);
  nodes.get('muted')?.place.namespace.run('nft', 'delete', 'table', 'inet', 'mute');
  await until(
    'all are reachable',
    async () => [...(await probed()).values()].every(({ state }) => state === 'reachable'),
    20_000,
  );
  await lab.agent.untilStatus('nothing is wrong', ({ health: found }) => found.length === 0);
  assert.equal((await lab.agent.run('health')).code, 0);
});

test('other settings are in force when a reload returns: another port, no probes at all, and as before', async () => {
  const reload = async (health: object): Promise<void> => {
    lab.agent.configure({ health: { enabled: true, interval: 5, timeout: 1, ...health } });
    assert.equal((await lab.agent.json<{ taken: boolean }>('config', 'reload')).taken, true);
  };
  const listeners = (port: number): string[] =>
    lab.machine.namespace.run('ss', '-Hltn', `sport = ${port}`).split('\n').filter(Boolean);
  await reload({ port: 4241 });
  await until('it answers on the other port', () => listeners(4241).length === 2);
  assert.deepEqual(listeners(4240), []);
  await reload({ enabled: false });
  assert.deepEqual(listeners(4241), []);
  assert.equal((await lab.agent.status()).nodeHealth, undefined);
  await lab.agent.untilStatus('nothing is wrong', ({ health: found }) => found.length === 0);
  await reload({});
  await until('all are reachable', async () => (await lab.agent.status()).nodeHealth?.reachable === 3, 20_000);
  assert.equal(listeners(4240).length, 2);
  const metrics = lab.machine.namespace.run('curl', '-s', 'http://127.0.0.1:9964/metrics');
  assert.match(metrics, /cilium_unreachable_nodes 0/);
});
