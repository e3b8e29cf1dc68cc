import assert from 'node:assert/strict';
import { readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { ExplainRequest, ExplanationRecord } from '../../src/api/policy-types.ts';
import type { PolicyRecord } from '../../src/api/types.ts';
import { assertReach, PORTS } from '../lab/matrix.ts';
import type { MeshLab } from '../lab/mesh-lab.ts';
import { until } from '../lab/namespace.ts';
import { CLUSTER_A, CLUSTER_B, CROSS_CLUSTER, enforce, fromFrontendOf, policyFor, startStory } from '../lab/story.ts';

/** What an operator asks and changes by hand, on a running agent with real packets. */
let lab: MeshLab;
const TCP = `tcp/${PORTS.tcp}`;
const NAME = 'CiliumNetworkPolicy/production/allow-cross-cluster';
const STRANGER = '203.0.113.10';

before(async () => {
  lab = await startStory([CLUSTER_A, CLUSTER_B]);
  await enforce(lab, CROSS_CLUSTER);
});
after(() => lab?.close());

const frontend = (cluster: string): string => lab.cluster(cluster).place('frontend').ipv4;

async function ask(request: ExplainRequest): Promise<ExplanationRecord> {
  const answer = await lab.agent.api.explain(request);
  assert.equal(answer.kind, 'PolicyExplanation', JSON.stringify(answer));
  return answer as ExplanationRecord;
}

async function policies(): Promise<PolicyRecord[]> {
  const found: PolicyRecord[] = [];
  for await (const record of lab.agent.api.policies()) found.push(record);
  return found;
}

function file(name: string, text: string): string {
  const path = join(lab.folder, name);
  writeFileSync(path, text);
  return path;
}

test('an allowed connection is explained by its rule, its place, both ends and the counter of the kernel', async () => {
  await assertReach(lab, { 'cluster-a/frontend > my-vm': 'all', 'world > my-vm': 'none' });
  const answer = await ask({ source: frontend('cluster-a'), destination: 'self', port: TCP });
  assert.deepEqual([answer.verdict, answer.reason, answer.direction], ['allow', 'allowed-by-rule', 'ingress']);
  const [rule] = answer.rules;
  assert.deepEqual([rule?.policy, rule?.path], [NAME, 'spec.ingress[0]']);
  assert.match(rule?.place ?? '', /policies\.d\/policy\.yaml:1$/);
  const { source, destination } = answer;
  assert.ok(source.labels.includes('k8s:app=frontend'));
  assert.deepEqual([source.cluster, source.source, source.fresh], ['cluster-a', 'kvstore', true]);
  assert.deepEqual([destination.self, destination.name], [true, 'my-vm']);
  assert.equal(answer.kernel.state, 'agrees');
  assert.ok((answer.kernel.rows[0]?.packets ?? 0) > 0, JSON.stringify(answer.kernel));
  assert.equal(answer.advice, undefined);
});

test('a denial names who asks for default deny, the nearest rule, and a policy that opens the way when it is applied', async () => {
  const request = { source: frontend('cluster-b'), destination: 'my-vm', port: TCP };
  const answer = await ask(request);
  assert.deepEqual([answer.verdict, answer.reason], ['deny', 'default-deny']);
  assert.equal(answer.kernel.state, 'agrees');
  assert.deepEqual(
    answer.advice?.defaultDeny.map(({ policy }) => policy),
    [NAME],
  );
  assert.deepEqual(
    answer.advice?.samePort.map(({ path }) => path),
    ['spec.ingress[0]'],
  );
  const text = answer.advice?.policy ?? '';
  const applied = await lab.agent.run('policy', 'apply', '-f', file('advice.yaml', text));
  assert.equal(applied.code, 0, applied.stderr);
  await until('it is allowed', async () => (await ask(request)).verdict === 'allow');
  await assertReach(lab, { 'cluster-b/frontend > my-vm': 'tcp', 'cluster-a/batch > my-vm': 'none' });
  const given = (await policies()).find(({ source }) => source.startsWith('api:'));
  assert.equal((await lab.agent.run('policy', 'delete', given?.name ?? '')).code, 0);
  await assertReach(lab, { 'cluster-b/frontend > my-vm': 'none' });
});

test('the policies of a file are tried without being applied', async () => {
  const path = file('new.yaml', policyFor('allow-cross-cluster', { ingress: [fromFrontendOf('cluster-b')] }));
  const before = await policies();
  const opened = await lab.agent.run(
    'policy',
    'explain',
    frontend('cluster-b'),
    'self',
    TCP,
    '--with',
    path,
    '--exit-code',
  );
  assert.equal(opened.code, 0, opened.stdout);
  assert.match(opened.stdout, /^DENIED[\s\S]*\(replaced\)\nBefore: +DENIED[\s\S]*\nAfter: +ALLOWED[\s\S]*new\.yaml:1/);
  const closed = await lab.agent.run(
    'policy',
    'explain',
    frontend('cluster-a'),
    'self',
    TCP,
    '--with',
    path,
    '--exit-code',
  );
  assert.equal(closed.code, 1, closed.stdout);
  assert.match(closed.stdout, /^ALLOWED[\s\S]*\nAfter: +DENIED/);
  assert.deepEqual(await policies(), before);
  await assertReach(lab, { 'cluster-a/frontend > my-vm': 'all', 'cluster-b/frontend > my-vm': 'none' });
});

test('a prefix of a policy on trial counts, and a world address is told from it', async () => {
  const text = policyFor('partners', {
    ingress: [{ fromCIDRSet: [{ cidr: '203.0.113.0/24', except: ['203.0.113.64/26'] }] }],
  });
  const verdicts = async (source: string): Promise<readonly unknown[]> => {
    const { trial } = await ask({ source, destination: 'self', port: TCP, with: [{ name: 'p.yaml', text }] });
    return [trial?.before.verdict, trial?.after.verdict];
  };
  assert.deepEqual(await verdicts(STRANGER), ['deny', 'allow']);
  assert.deepEqual(await verdicts('203.0.113.70'), ['deny', 'deny']);
  // CIDR rules never match a known endpoint.
  assert.deepEqual(await verdicts(frontend('cluster-b')), ['deny', 'deny']);
});

test('what passes whatever the policies say is named', async () => {
  const ssh = await ask({ source: STRANGER, destination: 'self', port: 'tcp/22' });
  assert.deepEqual(
    [ssh.verdict, ssh.reason, ssh.always?.why],
    ['allow', 'always', 'failsafe.ingress in the configuration'],
  );
  const node = lab.cluster('cluster-a').node.place.ipv4;
  const overlay = await ask({ source: node, destination: 'self', port: 'udp/8472' });
  assert.deepEqual([overlay.verdict, overlay.reason], ['allow', 'always']);
  const stranger = await ask({ source: STRANGER, destination: 'self', port: 'udp/8472' });
  assert.deepEqual([stranger.verdict, stranger.reason], ['deny', 'always']);
  const store = await ask({ source: 'self', destination: node, port: 'tcp/2379' });
  assert.match(store.always?.why ?? '', /a store that the agent is connected to/);
});

test('without a port every port is judged, and the rows that tell them apart are listed', async () => {
  const open = await ask({ source: frontend('cluster-a'), destination: 'self' });
  assert.equal(open.verdict, 'allow');
  const ports = { toPorts: [{ ports: [{ port: '8080', protocol: 'TCP' }] }] };
  const some = policyFor('allow-cross-cluster', { ingress: [{ ...fromFrontendOf('cluster-a'), ...ports }] });
  const { trial } = await ask({
    source: frontend('cluster-a'),
    destination: 'self',
    with: [{ name: 'p', text: some }],
  });
  assert.equal(trial?.after.verdict, 'partly');
  assert.deepEqual(
    trial?.after.ports?.map((each) => [each.ports, each.verdict]),
    [
      ['tcp/8080', 'allow'],
      ['everything else', 'deny'],
    ],
  );
});

test('the audit of a policy turns its denial into a report', async () => {
  const policy = JSON.parse(CROSS_CLUSTER) as { metadata: object };
  const audited = { ...policy, metadata: { ...policy.metadata, annotations: { 'mesh-agent.io/audit': 'true' } } };
  const texts = [{ name: 'audited.yaml', text: JSON.stringify(audited) }];
  const { trial } = await ask({ source: frontend('cluster-b'), destination: 'self', port: TCP, with: texts });
  assert.deepEqual([trial?.before.verdict, trial?.before.audit], ['deny', false]);
  assert.deepEqual([trial?.after.verdict, trial?.after.audit], ['allow', true]);
});

test('labels that one identity has name it; where several have them they are listed, with exit code 2', async () => {
  const one = ['k8s:app=frontend,io.cilium.k8s.policy.cluster=cluster-a', 'self', TCP];
  assert.match((await lab.agent.run('policy', 'explain', ...one)).stdout, /^ALLOWED/);
  const several = await lab.agent.run('policy', 'explain', 'k8s:app=frontend', 'self', TCP);
  assert.equal(several.code, 2);
  assert.match(several.stdout, /fits 2 identities/);
  for (const args of [
    [frontend('cluster-a'), frontend('cluster-b'), TCP],
    ['app=nobody', 'self', TCP],
    ['999999', 'self', TCP],
    [STRANGER, 'self', 'tcp/99999'],
    [STRANGER, 'self', 'icmpv6/128'],
    ['2001:db8::1', lab.machine.ipv4, TCP],
  ]) {
    const refused = await lab.agent.run('policy', 'explain', ...args);
    assert.equal(refused.code, 2, args.join(' '));
    assert.match(refused.stderr, /API-QUESTION/);
  }
});

test('policies by the API are kept over a restart, go before the folder and behind nobody else here', async () => {
  const mine = policyFor('allow-cross-cluster', { ingress: [fromFrontendOf('cluster-b')] });
  const raw = '[{"endpointSelector": {"matchLabels": {"app": "backend"}}, "egress": [{"toEntities": ["all"]}]}]';
  const applied = await lab.agent.run('policy', 'apply', '-f', file('mine.yaml', mine), file('raw.json', raw));
  assert.equal(applied.code, 0, applied.stdout + applied.stderr);
  assert.match(applied.stdout, /allow-cross-cluster +created +in-force +also in directory:policy\.yaml/);
  const check = async (): Promise<void> => {
    await assertReach(lab, { 'cluster-a/frontend > my-vm': 'none', 'cluster-b/frontend > my-vm': 'all' });
    const states = (await policies()).map(({ name, source, state }) => [name, source, state]);
    assert.deepEqual(states, [
      [NAME, `api:${NAME}`, 'in-force'],
      [NAME, 'directory:policy.yaml', 'shadowed'],
      ['Rules/api:raw', 'api:raw', 'in-force'],
    ]);
  };
  await check();
  const folder = join(lab.agent.stateDir, 'policies');
  assert.equal(statSync(folder).mode & 0o777, 0o700);
  for (const name of readdirSync(folder)) assert.equal(statSync(join(folder, name)).mode & 0o777, 0o600, name);
  const { policy, state } = await lab.agent.status();
  assert.deepEqual([policy.shadowed, state], [1, 'ok']);
  await lab.agent.kill();
  lab.agent.start();
  await lab.agent.untilReady();
  await check();
  const again = await lab.agent.run('policy', 'apply', '-f', file('mine.yaml', mine));
  assert.match(again.stdout, /unchanged/);
  for (const name of [NAME, 'Rules/api:raw']) assert.equal((await lab.agent.run('policy', 'delete', name)).code, 0);
  assert.match((await lab.agent.run('policy', 'delete', NAME)).stderr, /API-NOT-FOUND/);
  assert.deepEqual(readdirSync(folder), []);
  await assertReach(lab, { 'cluster-a/frontend > my-vm': 'all', 'cluster-b/frontend > my-vm': 'none' });
});

test('of several objects with one that is refused, none is taken, and the place of the error is named', async () => {
  const good = policyFor('good', { ingress: [{}] });
  const bad = policyFor('bad', { ingres: [] });
  const path = file('two.yaml', `${good}\n---\n${bad}\n`);
  const refused = await lab.agent.run('policy', 'apply', '-f', path);
  assert.equal(refused.code, 1);
  assert.match(refused.stdout, /two\.yaml:3: document 2, CiliumNetworkPolicy\/production\/bad, spec.*ingres/);
  assert.deepEqual(
    (await policies()).map(({ source }) => source),
    ['directory:policy.yaml'],
  );
});

test('what the agent knows ages with its cluster', async () => {
  await lab.cluster('cluster-b').door.close();
  await lab.agent.untilStatus('cluster-b is out of touch', ({ clusters }) =>
    clusters.some(({ name, connected }) => name === 'cluster-b' && !connected),
  );
  const { source } = await ask({ source: frontend('cluster-b'), destination: 'self', port: TCP });
  assert.equal(source.fresh, false);
  assert.ok((source.since ?? 0) > Date.now() - 60_000);
  const { stdout } = await lab.agent.run('policy', 'explain', frontend('cluster-b'), 'self', TCP);
  assert.match(stdout, /cluster-b says so \(clustermesh\), out of touch for \d+s/);
});
