import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import type { ConfigurationRecord } from '../../src/api/types.ts';
import { assertReach, type Expected, PORTS } from '../lab/matrix.ts';
import type { MeshLab } from '../lab/mesh-lab.ts';
import { until } from '../lab/namespace.ts';
import { CLUSTER_A, CROSS_CLUSTER, enforce, policyFor, startStory } from '../lab/story.ts';

/** A configuration that is changed while the agent enforces. */
const ENFORCED: Expected = {
  'cluster-a/frontend > my-vm': 'all',
  'cluster-a/batch > my-vm': 'none',
  'world > my-vm': 'none',
};
const METRICS = '127.0.0.1:19964';

let lab: MeshLab;
let former: string;

before(async () => {
  lab = await startStory([CLUSTER_A], { config: { metrics: { listen: '' } } });
  await enforce(lab, CROSS_CLUSTER);
  former = lab.agent.policies;
});
after(() => lab?.close());
// A test that fails does not make the next one fail.
afterEach(() => reload({}));

interface Reloaded extends Pick<ConfigurationRecord, 'changed' | 'waiting' | 'problems'> {
  readonly taken: boolean;
}

/** The configuration of the beginning with these keys over it, taken over. */
async function reload(config: Readonly<Record<string, unknown>>): Promise<Reloaded> {
  lab.agent.configure({ metrics: { listen: '' }, ...config });
  return lab.agent.json<Reloaded>('config', 'reload');
}

async function inForce(config: Readonly<Record<string, unknown>>, changed: readonly string[]): Promise<void> {
  const answer = await reload(config);
  assert.deepEqual([answer.taken, answer.changed], [true, changed]);
}

/** At once: when the command has returned the kernel has it. */
const reaches = (expected: Expected): Promise<void> => assertReach(lab, { ...ENFORCED, ...expected }, 0);

test('failsafe ports, audit and enforcement are in force when the command returns', async () => {
  await inForce({ failsafe: { ingress: ['tcp/80'], egress: [] } }, ['failsafe.ingress']);
  await reaches({ 'world > my-vm': 'tcp', 'cluster-a/batch > my-vm': 'tcp' });
  await inForce({ audit: true }, ['audit', 'failsafe.ingress']);
  await reaches({ 'world > my-vm': 'all', 'cluster-a/batch > my-vm': 'all' });
  await inForce({ enforcement: 'never' }, ['enforcement', 'audit']);
  await reaches({ 'world > my-vm': 'all', 'cluster-a/batch > my-vm': 'all' });
  await inForce({}, ['enforcement']);
  await reaches({});
});

test('a device that is none any more is not judged', async () => {
  await inForce({ devices: ['elsewhere0'] }, ['devices']);
  await assertReach(lab, { 'world > my-vm': 'all' }, 0);
  await inForce({}, ['devices']);
  await reaches({});
});

test('a named port is another one', async () => {
  const ports = [{ ports: [{ port: 'web', protocol: 'TCP' }] }];
  await enforce(lab, policyFor('named', { ingress: [{ fromEntities: ['world'], toPorts: ports }] }), 'named.yaml');
  await inForce({ namedPorts: { web: 'tcp/80' } }, ['namedPorts']);
  await reaches({ 'world > my-vm': 'tcp' });
  await inForce({ namedPorts: { web: 'tcp/8080' } }, ['namedPorts']);
  await reaches({});
  lab.agent.removePolicy('named.yaml');
  await inForce({}, ['namedPorts']);
});

test('policies of another folder take the place of the former ones, in one step', async () => {
  const other = join(lab.folder, 'other.d');
  mkdirSync(other);
  const ingress = [{ fromEndpoints: [{ matchLabels: { app: 'batch' } }] }];
  writeFileSync(join(other, 'other.yaml'), policyFor('other', { ingress }));
  const flow = await lab.topology.world.flow(lab.machine.ipv4, PORTS.udp, { fresh: true, everyMs: 5 });
  await inForce({ policies: other }, ['policies']);
  await reaches({ 'cluster-a/frontend > my-vm': 'none', 'cluster-a/batch > my-vm': 'all' });
  await inForce({}, ['policies']);
  await reaches({});
  const { sent, received } = await flow.stop();
  assert.ok(sent > 20, `${sent} sent`);
  assert.equal(received, 0, 'there was a moment without policies');
  const missing = await reload({ policies: join(lab.folder, 'nowhere') });
  assert.deepEqual([missing.taken, missing.problems[0]?.code], [false, 'CFG-FILE']);
  await reaches({});
  assert.equal(lab.agent.policies, former);
});

test('services of the mesh go and come', async () => {
  const [vip, backend] = ['10.96.0.10', lab.cluster('cluster-a').place('frontend').ipv4];
  const http = { http: { Protocol: 'TCP', Port: 80 } };
  const service = { namespace: 'production', name: 'api', frontends: { [vip]: http }, backends: { [backend]: http } };
  await lab.cluster('cluster-a').facts.service(service);
  const probe = () => lab.machine.probe({ protocol: 'tcp', to: vip, port: 80 });
  await until('the service is reached', async () => (await probe()) === 'pass');
  await inForce({ services: { enabled: false } }, ['services.enabled']);
  // Nobody has the address: whether a neighbour was looked for a moment ago decides which of the two it is.
  assert.match(await probe(), /^(blocked|unreachable)$/);
  await inForce({}, ['services.enabled']);
  assert.equal(await probe(), 'pass');
  await inForce({ services: { weights: { 'cluster-a': 0 }, sticky: ['production/api'] } }, [
    'services.sticky',
    'services.weights',
  ]);
  await inForce({}, ['services.sticky', 'services.weights']);
});

test('routes of the overlay go with the routing, and come back', async () => {
  const routes = (): string => lab.machine.namespace.run('ip', 'route', 'show', 'proto', '77');
  const before = routes();
  assert.notEqual(before, '');
  await inForce({ routing: 'native' }, ['routing']);
  assert.equal(routes(), '');
  await inForce({}, ['routing']);
  assert.equal(routes(), before);
  await reaches({});
});

test('the log says more, metrics are where they are wanted', async () => {
  assert.doesNotMatch(lab.agent.log, /"level":"debug"/);
  await inForce({ log: { level: 'debug' }, metrics: { listen: METRICS } }, ['metrics.listen', 'log.level']);
  await inForce({ log: { level: 'debug' }, metrics: { listen: METRICS }, audit: true }, ['audit']);
  assert.match(lab.agent.log, /"level":"debug"/);
  const metrics = (): string => lab.machine.namespace.run('curl', '-sS', `http://${METRICS}/metrics`);
  assert.match(metrics(), /cilium_version/);
  await inForce({}, ['audit', 'metrics.listen', 'log.level']);
  assert.throws(metrics);
});

test('the log goes to another file, to a new one when it was moved away, and back', async () => {
  const file = join(lab.folder, 'agent.log');
  await inForce({ log: { file } }, ['log.file']);
  await inForce({ log: { file, level: 'debug' } }, ['log.level']);
  await inForce({ log: { file, level: 'debug' }, audit: true }, ['audit']);
  await until('it says more', () => /"level":"debug"/.test(readFileSync(file, 'utf8')));
  renameSync(file, `${file}.1`);
  await inForce({ log: { file } }, ['audit', 'log.level']);
  await until('the new file is written', () => /\n$/.test(readFileSync(file, 'utf8')));
  const missing = await reload({ log: { file: join(lab.folder, 'nowhere', 'agent.log') } });
  assert.deepEqual([missing.taken, missing.problems[0]?.code], [false, 'OBS-LOG']);
  const length = lab.agent.log.length;
  await inForce({}, ['log.file']);
  await until('it is told on standard error again', () => lab.agent.log.length > length);
});

test('a configuration that is wrong changes nothing, and is told until it is right', async () => {
  const answer = await reload({ audit: true, log: { level: 'loud' }, failsafe: { ingress: ['tcp/0'] } });
  assert.equal(answer.taken, false);
  assert.deepEqual(
    answer.problems.map(({ code }) => code),
    ['CFG-VALUE', 'CFG-VALUE'],
  );
  const { code, stdout } = await lab.agent.run('config', 'reload');
  assert.equal(code, 1);
  assert.match(stdout, /config\.yaml:[0-9]+: .*log\.level[\s\S]*nothing was changed/);
  await reaches({});
  const { place, severity } = await lab.agent.untilHealth('CFG-RELOAD', 'config');
  assert.match(place ?? '', /config\.yaml:[0-9]+/);
  assert.equal(severity, 'warning');
  assert.match(lab.agent.log, /"code":"CFG-RELOAD"/);
  assert.equal((await reload({})).taken, true);
  assert.equal((await lab.agent.status()).health.length, 0);
});

test('a key that needs a restart is named, and is not in force', async () => {
  const answer = await reload({ name: 'another', audit: true });
  assert.deepEqual([answer.changed, answer.waiting], [['audit'], ['name']]);
  const { text } = await lab.agent.untilHealth('CFG-RESTART', 'config');
  assert.match(text, /name/);
  assert.equal((await lab.agent.status()).machine.name, 'my-vm');
  assert.deepEqual((await reload({})).waiting, []);
  assert.equal((await lab.agent.status()).health.length, 0);
});

test('no packet is lost and none gets in while the configuration is read again and again', async () => {
  const [frontend, batch] = ['frontend', 'batch'].map((name) => lab.cluster('cluster-a').place(name));
  const allowed = await frontend?.flow(lab.machine.ipv4, PORTS.udp, { fresh: true, everyMs: 5 });
  const forbidden = await batch?.flow(lab.machine.ipv4, PORTS.udp, { fresh: true, everyMs: 5 });
  for (let round = 0; round < 10; round++)
    await reload({ failsafe: { ingress: [`tcp/${1000 + round}`], egress: [] }, fqdn: { grace: round } });
  const [first, second] = await Promise.all([allowed?.stop(), forbidden?.stop()]);
  assert.ok((first?.sent ?? 0) > 50);
  assert.equal(first?.received, first?.sent);
  assert.equal(second?.received, 0);
});
