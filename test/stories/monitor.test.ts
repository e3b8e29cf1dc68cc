import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { FlowParameters } from '../../src/api/flow-query.ts';
import type { FlowEvent, FlowRecord } from '../../src/api/flow-types.ts';
import type { ExplanationRecord } from '../../src/api/policy-types.ts';
import { VERDICT_LOG } from '../../src/datapath/verdict-log.ts';
import { containerOn } from '../lab/container.ts';
import type { MeshLab } from '../lab/mesh-lab.ts';
import { endProcess, until } from '../lab/namespace.ts';
import type { Place } from '../lab/place.ts';
import { CLUSTER_A, enforce, policyFor, startStory } from '../lab/story.ts';

/** What an operator sees of packets: each drop of a known sequence, with the rule that decided. */
const ALLOW = policyFor('allow', {
  ingress: [
    {
      fromEndpoints: [{ matchLabels: { app: 'frontend' } }],
      toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }] }],
    },
  ],
  egress: [{ toCIDR: ['203.0.113.0/24'], toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }] }] }],
});
const DENY = policyFor('deny', {
  ingressDeny: [{ fromEntities: ['world'], toPorts: [{ ports: [{ port: '81', protocol: 'TCP' }] }] }],
});
const DEFAULT_DENY = 'CiliumNetworkPolicy/production/allow';
const DENY_RULE = 'CiliumNetworkPolicy/production/deny';
const WORLD = { 4: '203.0.113.10', 6: '2001:db8:113::10' } as const;
const MACHINE = { 4: '192.168.100.10', 6: 'fd00:100::10' } as const;

let lab: MeshLab;
let container: Place;

before(async () => {
  lab = await startStory([CLUSTER_A]);
  container = containerOn(lab.machine);
  await enforce(lab, ALLOW, 'allow.yaml');
  await enforce(lab, DENY, 'deny.yaml');
});
after(async () => {
  await container?.close();
  await lab?.close();
});

async function flows(query: FlowParameters = { last: '1000' }): Promise<FlowRecord[]> {
  const found: FlowRecord[] = [];
  for await (const event of lab.agent.api.flows(query)) if ('flow' in event) found.push(event.flow);
  return found;
}

/** The first flow that fits what somebody just sent. */
async function seen(query: FlowParameters, from: number): Promise<FlowRecord> {
  let found: FlowRecord | undefined;
  await until(`a flow with ${JSON.stringify(query)}`, async () => {
    found = (await flows({ last: '1000', ...query })).find(({ number }) => number >= from);
    return found !== undefined;
  });
  return found as FlowRecord;
}

const next = async (): Promise<number> => ((await flows({ last: '1' }))[0]?.number ?? -1) + 1;

/** One probe, the flow that the monitor shows of it, and what `policy explain` says when its command is typed. */
async function dropOf(
  probe: { from: Place; to: string; protocol: 'tcp' | 'udp' | 'icmp'; port: number },
  query: FlowParameters,
): Promise<FlowRecord> {
  const from = await next();
  const { from: place, ...request } = probe;
  assert.equal(await place.probe(request), 'blocked');
  return seen({ verdict: 'dropped', to: probe.to, ...query }, from);
}

function told({ dropReason, policy, direction, reply, ipVersion, protocol, interface: device }: FlowRecord): string {
  const rule = policy.rules[0];
  const words = [direction, reply ? 'answer' : '', `ipv${ipVersion}`, protocol, device.name];
  return [...words, dropReason?.number, policy.reason, rule?.policy, rule?.path]
    .filter((word) => word !== undefined && word !== '')
    .join(' ');
}

for (const family of [4, 6] as const) {
  test(`each drop over IPv${family} is shown with its way, its number and the rule that decided`, async () => {
    const { world } = lab.topology;
    const icmp = family === 4 ? 'icmp' : 'icmpv6';
    const [us, them] = [MACHINE[family], WORLD[family]];
    const none = `133 default-deny ${DEFAULT_DENY}`;
    const tcp = await dropOf({ from: world, to: us, protocol: 'tcp', port: 80 }, { port: 'tcp/80' });
    assert.equal(told(tcp), `ingress ipv${family} tcp eth0 ${none} spec`);
    assert.deepEqual([tcp.tcpFlags, tcp.destinationPort, tcp.source.address], [['SYN'], 80, them]);
    assert.deepEqual([tcp.destination.self, tcp.destination.node], [true, 'cluster-a/my-vm']);
    const udp = await dropOf({ from: world, to: us, protocol: 'udp', port: 53 }, { port: 'udp/53' });
    assert.equal(told(udp), `ingress ipv${family} udp eth0 ${none} spec`);
    const echo = await dropOf({ from: world, to: us, protocol: 'icmp', port: 0 }, { protocol: icmp });
    assert.equal(told(echo), `ingress ipv${family} ${icmp} eth0 ${none} spec`);
    assert.deepEqual(echo.icmp, { type: family === 4 ? 8 : 128, code: 0 });
    const denied = await dropOf({ from: world, to: us, protocol: 'tcp', port: 81 }, { port: '81' });
    assert.equal(told(denied), `ingress ipv${family} tcp eth0 181 denied-by-rule ${DENY_RULE} spec.ingressDeny[0]`);
    const out = await dropOf({ from: lab.machine, to: them, protocol: 'udp', port: 53 }, { direction: 'egress' });
    assert.equal(told(out), `egress ipv${family} udp eth0 ${none} spec`);
    assert.deepEqual([out.source.self, out.source.address, out.destination.address], [true, us, them]);
  });
}

test('a drop out of the overlay is shown with the labels, the cluster and the device', async () => {
  const batch = lab.cluster('cluster-a').place('batch');
  const flow = await dropOf({ from: batch, to: MACHINE[4], protocol: 'tcp', port: 80 }, { label: 'app=batch' });
  assert.equal(told(flow), `ingress ipv4 tcp mesh_vxlan 133 default-deny ${DEFAULT_DENY} spec`);
  assert.equal(flow.source.cluster, 'cluster-a');
});

test('what a container sends is shown as the machine, on its way out', async () => {
  const flow = await dropOf({ from: container, to: WORLD[4], protocol: 'udp', port: 53 }, { direction: 'egress' });
  assert.equal(told(flow), `egress ipv4 udp eth0 133 default-deny ${DEFAULT_DENY} spec`);
  assert.deepEqual([flow.source.address, flow.source.self], ['172.17.0.2', true]);
});

test('a packet for a published port of a container is judged as it comes, for the machine', async () => {
  const rule =
    'table ip docker { chain c { type nat hook prerouting priority -100; tcp dport 8080 dnat to 172.17.0.2:80; }; }';
  lab.machine.namespace.feed(rule, 'nft', '-f', '-');
  const flow = await dropOf(
    { from: lab.topology.world, to: MACHINE[4], protocol: 'tcp', port: 8080 },
    { port: '8080' },
  );
  assert.equal(told(flow), `ingress ipv4 tcp eth0 133 default-deny ${DEFAULT_DENY} spec`);
});

test('a tunnel packet from a host that is no node is shown as an unknown sender', async () => {
  const flow = await dropOf(
    { from: lab.topology.world, to: MACHINE[4], protocol: 'udp', port: 8472 },
    { port: '8472' },
  );
  assert.equal(told(flow), 'ingress ipv4 udp eth0 172 unknown-sender');
  assert.deepEqual(flow.explain, ['policy', 'explain', WORLD[4], 'self', 'udp/8472']);
});

test('the command that a drop names explains it as it is typed', async () => {
  const from = await next();
  await lab.topology.world.probe({ protocol: 'tcp', to: MACHINE[4], port: 81 });
  await seen({ port: '81', verdict: 'dropped', to: MACHINE[4] }, from);
  const { stdout, code } = await lab.agent.run('monitor', '--drops', '--port', '81', '--to', MACHINE[4], '--last', '1');
  assert.equal(code, 0);
  const line = /^ +mesh-agent (policy explain .*)$/m.exec(stdout);
  assert.ok(line !== null, stdout);
  assert.match(stdout, /DROPPED in {2}tcp 203\.0\.113\.10:\d+ > 192\.168\.100\.10:81 SYN/);
  assert.match(stdout, /a rule denies it \(181 Policy denied by denylist\): CiliumNetworkPolicy\/production\/deny/);
  assert.ok(!stdout.includes('\x1b'), 'no color in a pipe');
  const [, words = ''] = line;
  assert.ok(words.startsWith('policy explain 203.0.113.10 self tcp/81 '), words);
  const answer = await lab.agent.json<ExplanationRecord>(...words.split(' ').slice(0, 5));
  assert.deepEqual([answer.verdict, answer.reason], ['deny', 'denied-by-rule']);
  const compact = await lab.agent.run(
    'monitor',
    '--drops',
    '--port',
    '81',
    '--to',
    MACHINE[4],
    '--last',
    '1',
    '--compact',
  );
  const form =
    /^xx drop \(Policy denied by denylist\) flow 0x[0-9a-f]+ to endpoint 1, ifindex \d+, identity \d+->\d+: 203\.0\.113\.10:\d+ -> 192\.168\.100\.10:81 tcp SYN\n$/;
  assert.match(compact.stdout, form);
  const list = await lab.agent.json<{ kind: string; items: FlowRecord[] }>('monitor', '--drops', '--last', '3');
  assert.deepEqual([list.kind, list.items.length], ['FlowList', 3]);
});

test('a connection whose policy is withdrawn is shown when it is cut', async () => {
  const frontend = lab.cluster('cluster-a').place('frontend');
  const connection = await frontend.open(MACHINE[4], 80);
  const from = await next();
  await enforce(lab, policyFor('allow', { ingress: [], egress: [] }), 'allow.yaml');
  await connection.check();
  const flow = await seen({ from: frontend.ipv4, verdict: 'dropped' }, from);
  assert.deepEqual([flow.policy.reason, flow.dropReason?.number], ['withdrawn', 133]);
  await enforce(lab, ALLOW, 'allow.yaml');
});

test('allowed connections are told of while somebody follows, with the rule, and the kernel is left alone after', async () => {
  const frontend = lab.cluster('cluster-a').place('frontend');
  const watched = (): string => lab.machine.namespace.run('nft', 'list', 'set', 'inet', 'mesh_agent', 'watched');
  const leave = new AbortController();
  const events: FlowEvent[] = [];
  const following = (async () => {
    const query = { follow: '1', from: frontend.ipv4, verdict: 'allowed' };
    for await (const event of lab.agent.api.flows(query, leave.signal)) events.push(event);
  })();
  await until('the kernel tells of new connections', () => watched().includes('elements'));
  assert.equal(await frontend.probe({ protocol: 'tcp', to: MACHINE[4], port: 80 }), 'pass');
  await until('the connection is told of', () => events.some((event) => 'flow' in event));
  const [flow] = events.flatMap((event) => ('flow' in event ? [event.flow] : []));
  assert.deepEqual(
    [flow?.verdict, flow?.policy.reason, flow?.policy.ports],
    ['FORWARDED', 'allowed-by-rule', 'tcp/80'],
  );
  assert.equal(flow?.policy.rules[0]?.path, 'spec.ingress[0]');
  leave.abort();
  await following;
  await until('the kernel tells of them no more', () => !watched().includes('elements'));
});

test('what a policy in audit would deny passes, and is shown with its rule', async () => {
  lab.agent.removePolicy('deny.yaml');
  const policy = JSON.parse(policyFor('allow', { ingress: [{ fromEntities: ['remote-node'] }] })) as {
    metadata: object;
  };
  const annotations = { 'mesh-agent.io/audit': 'true' };
  await enforce(lab, JSON.stringify({ ...policy, metadata: { ...policy.metadata, annotations } }), 'allow.yaml');
  const from = await next();
  assert.equal(await lab.topology.world.probe({ protocol: 'tcp', to: MACHINE[4], port: 80 }), 'pass');
  const flow = await seen({ verdict: 'audit', port: '80' }, from);
  assert.equal(told(flow), `ingress ipv4 tcp eth0 133 default-deny ${DEFAULT_DENY} spec`);
  const { stdout } = await lab.agent.run('monitor', '--verdict', 'audit', '--last', '1', '--compact');
  assert.match(
    stdout,
    /^Policy verdict log: flow 0x\w+ local EP ID 1, remote ID \d+, proto 6, ingress, action audit, auth/,
  );
});

test('the counters of drops by reason are in the metrics, and go on over a restart and a table that is lost', async () => {
  const drops = async (): Promise<number> => {
    const { datapath } = await lab.agent.status();
    return datapath.drops.reduce((sum, { packets }) => sum + packets, 0);
  };
  await until('the drops are counted', async () => (await drops()) > 5);
  const before = await drops();
  lab.machine.namespace.run('nft', 'delete', 'table', 'inet', 'mesh_agent');
  await lab.agent.untilStatus('the table is back', ({ datapath }) => datapath.healed > 0 && datapath.applied);
  assert.ok((await drops()) >= before);
  await lab.agent.stop();
  lab.agent.start();
  await lab.agent.untilReady();
  assert.ok((await drops()) >= before, 'the kernel kept them');
});

test('another listener of the log group costs the monitor alone, is told of, and followed when it is gone', async () => {
  await lab.agent.stop();
  const script = join(import.meta.dirname, '../host/packet-log-listener.ts');
  const other = lab.machine.namespace.start(process.execPath, ['--no-warnings', script, String(VERDICT_LOG.group)]);
  let said = '';
  other.stdout?.on('data', (chunk: Buffer) => {
    said += chunk.toString();
  });
  await until('the other one listens', () => said.includes('listening'));
  lab.agent.start();
  const { text, severity } = await lab.agent.untilHealth('AGT-MONITOR');
  assert.match(text, /EPERM|permitted/);
  assert.equal(severity, 'warning');
  await lab.agent.untilReady();
  await endProcess(other);
  await lab.agent.untilStatus('we listen', ({ health }) => health.every(({ code }) => code !== 'AGT-MONITOR'));
  await enforce(lab, ALLOW, 'allow.yaml');
  await dropOf({ from: lab.topology.world, to: MACHINE[4], protocol: 'udp', port: 53 }, { port: 'udp/53' });
});
