import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { NameRecord } from '../../src/api/policy-types.ts';
import { NAME_LOG } from '../../src/datapath/name-log.ts';
import { DnsPlace } from '../lab/dns.ts';
import { PORTS } from '../lab/matrix.ts';
import { MeshLab } from '../lab/mesh-lab.ts';
import { endProcess, until } from '../lab/namespace.ts';
import { CLUSTER_A, enforce, policyFor } from '../lab/story.ts';

/** Policies that name DNS names, with a name server in the world and real answers. */
let lab: MeshLab;
let server: DnsPlace;
let client: DnsPlace;

const SERVER = '203.0.113.10';
const SERVER6 = '2001:db8:113::10';
/** More addresses of the world. */
const API = ['203.0.113.21', '2001:db8:113::21'] as const;
const CDN = '203.0.113.22';
const BRIEF = '203.0.113.23';
const FORGED = '203.0.113.66';
const INSIDE = '203.0.113.24';
const GRACE_S = 1;

const DNS_PORT = { toPorts: [{ ports: [{ port: '53', protocol: 'UDP' }] }] };
const NAMES = policyFor('names', {
  egress: [
    { toCIDR: [`${SERVER}/32`, `${SERVER6}/128`], ...DNS_PORT },
    { toEndpoints: [{ matchLabels: { app: 'frontend' } }], ...DNS_PORT },
    {
      toFQDNs: [
        { matchName: 'api.example.test' },
        { matchPattern: '*.cdn.example.test' },
        { matchName: 'brief.example.test' },
      ],
    },
  ],
});

before(async () => {
  lab = await MeshLab.start([CLUSTER_A], { config: { fqdn: { grace: GRACE_S } } });
  lab.agent.start();
  await lab.topology.world.listen({ tcp: [PORTS.tcp] });
  await lab.agent.untilReady();
  const { world } = lab.topology;
  for (const address of [API[0], CDN, BRIEF, FORGED, INSIDE])
    world.namespace.run('ip', 'address', 'add', `${address}/24`, 'dev', 'eth0');
  world.namespace.run('ip', '-6', 'address', 'add', `${API[1]}/64`, 'dev', 'eth0', 'nodad');
  server = await DnsPlace.open(world);
  await server.serve(SERVER, SERVER6);
  await server.records({
    'api.example.test': { addresses: API, ttl: 600 },
    'one.cdn.example.test': { addresses: [CDN], ttl: 600 },
    'brief.example.test': { addresses: [BRIEF], ttl: 1 },
    'other.example.test': { addresses: [FORGED], ttl: 600 },
  });
  client = await DnsPlace.open(lab.machine);
  await enforce(lab, NAMES);
});
after(async () => {
  await server?.close();
  await client?.close();
  await lab?.close();
});

const probe = (to: string): Promise<string> => lab.machine.probe({ protocol: 'tcp', to, port: PORTS.tcp });

async function names(): Promise<NameRecord[]> {
  const found: NameRecord[] = [];
  for await (const record of lab.agent.api.names()) found.push(record);
  return found;
}

const untilOpen = (to: string): Promise<void> => until(`${to} is allowed`, async () => (await probe(to)) === 'pass');

test('before the first answer the names lead nowhere', async () => {
  for (const to of [...API, CDN, SERVER]) assert.equal(await probe(to), 'blocked', to);
  assert.deepEqual(await names(), []);
  const { stdout } = await lab.agent.run('policy', 'explain', 'self', API[0], `tcp/${PORTS.tcp}`);
  assert.match(stdout, /^DENIED/);
  assert.match(stdout, /no answer with this address was seen/);
});

test('an answer opens the way to its addresses, in both families, and to no others', async () => {
  assert.deepEqual(await client.ask({ server: SERVER, name: 'api.example.test', type: 'A' }), [API[0]]);
  await untilOpen(API[0]);
  assert.equal(await probe(API[1]), 'blocked');
  assert.deepEqual(await client.ask({ server: SERVER6, name: 'api.example.test', type: 'AAAA' }), [API[1]]);
  await untilOpen(API[1]);
  for (const to of [CDN, SERVER]) assert.equal(await probe(to), 'blocked', to);
  await client.ask({ server: SERVER, name: 'One.CDN.example.test', type: 'A' });
  await untilOpen(CDN);
  const { stdout } = await lab.agent.run('fqdn', 'list');
  assert.match(stdout, /api\.example\.test +203\.0\.113\.21 +in \S+ +api\.example\.test/);
  assert.match(stdout, /one\.cdn\.example\.test +203\.0\.113\.22 +in \S+ +\*\.cdn\.example\.test/);
  const explained = await lab.agent.run('policy', 'explain', 'self', CDN, `tcp/${PORTS.tcp}`);
  assert.match(explained.stdout, /^ALLOWED[\s\S]*learnt from DNS: one\.cdn\.example\.test/);
});

test('a name that no selector matches opens nothing', async () => {
  assert.deepEqual(await client.ask({ server: SERVER, name: 'other.example.test', type: 'A' }), [FORGED]);
  await until('it is known', async () => (await names()).some(({ name }) => name === 'other.example.test'));
  assert.equal(await probe(FORGED), 'blocked');
});

test('an answer with a wrong id, a wrong name or from another host is not believed', async () => {
  const victim = 'evil.cdn.example.test';
  await server.records({
    [victim]: { addresses: [FORGED], ttl: 600 },
    [`not-${victim}`]: { addresses: [FORGED], ttl: 600 },
  });
  for (const mode of ['wrong-id', 'wrong-name'] as const) {
    await server.mode(mode);
    assert.deepEqual(await client.ask({ server: SERVER, name: victim, type: 'A' }), [FORGED], mode);
  }
  await server.mode('silent');
  const forger = await DnsPlace.open(lab.cluster('cluster-a').node.place);
  try {
    const asked = client.ask({
      server: SERVER,
      name: victim,
      type: 'A',
      id: 4711,
      fromPort: 45_454,
      timeoutMs: 20_000,
    });
    const forgery = { to: lab.machine.ipv4, port: 45_454, id: 4711, name: victim, address: FORGED };
    let answered = false;
    void asked.then(() => {
      answered = true;
    });
    // The client takes it: it did arrive.
    await until('the forged answer arrives', async () => {
      await forger.forge(forgery);
      return answered;
    });
    assert.deepEqual(await asked, [FORGED]);
  } finally {
    await forger.close();
    await server.mode('honest');
  }
  // An honest answer after them is read after them.
  await server.records({ 'last.cdn.example.test': { addresses: [CDN], ttl: 600 } });
  await client.ask({ server: SERVER, name: 'last.cdn.example.test', type: 'A' });
  await until('the honest one is known', async () => (await names()).some(({ name }) => name.startsWith('last.')));
  assert.ok((await names()).every(({ name }) => !name.includes('evil')));
  assert.equal(await probe(FORGED), 'blocked');
});

test('answers that the overlay brings count as well', async () => {
  const pod = lab.cluster('cluster-a').place('frontend');
  const inside = await DnsPlace.open(pod);
  try {
    await inside.serve(pod.ipv4, pod.ipv6);
    await inside.records({ 'inside.cdn.example.test': { addresses: [INSIDE], ttl: 600 } });
    assert.equal(await probe(INSIDE), 'blocked');
    assert.deepEqual(await client.ask({ server: pod.ipv4, name: 'inside.cdn.example.test', type: 'A' }), [INSIDE]);
    await untilOpen(INSIDE);
  } finally {
    await inside.close();
  }
});

test('a flood of queries neither stops the agent nor outlasts itself', async () => {
  await server.mode('silent');
  const flood = client.flood(SERVER, 40_000);
  let over = false;
  void flood.finally(() => {
    over = true;
  });
  let answered = 0;
  while (!over) {
    await lab.agent.status();
    answered++;
  }
  await flood;
  assert.ok(answered > 3, `${answered} answers while it lasted`);
  await server.mode('honest');
  await server.records({ 'after.cdn.example.test': { addresses: [CDN], ttl: 600 } });
  await until('names are learnt again', async () => {
    await client.ask({ server: SERVER, name: 'after.cdn.example.test', type: 'A' });
    return (await names()).some(({ name }) => name === 'after.cdn.example.test');
  });
});

test('an address goes with its lifetime, but not while a connection to it lives', async () => {
  await server.records({ 'brief.example.test': { addresses: [BRIEF], ttl: 1 } });
  await client.ask({ server: SERVER, name: 'brief.example.test', type: 'A' });
  await untilOpen(BRIEF);
  await client.ask({ server: SERVER, name: 'brief.example.test', type: 'A' });
  const connection = await lab.machine.open(BRIEF, PORTS.tcp);
  const brief = async (): Promise<NameRecord | undefined> =>
    (await names()).find(({ name }) => name === 'brief.example.test');
  await until('its lifetime is over', async () => (await brief())?.addresses[0]?.live === true);
  assert.equal(await connection.check(), 'pass');
  await connection.close();
  // Connection tracking still waits for late packets of the closed one; the agent does not.
  await until('it is forgotten', async () => (await brief()) === undefined, 40_000);
  await until('it is closed', async () => (await probe(BRIEF)) === 'blocked');
});

test('names outlive a restart, a killed agent too', async () => {
  const file = join(lab.agent.stateDir, 'names.json');
  await until('the names are on the disk', () => {
    const { mode, size } = statSync(file);
    assert.equal(mode & 0o777, 0o600);
    return size > 200;
  });
  await lab.agent.kill();
  assert.equal(await probe(API[0]), 'pass', 'the rules stay');
  lab.agent.start();
  await lab.agent.untilReady();
  assert.deepEqual(
    (await names()).map(({ name }) => name).filter((name) => name.startsWith('api.')),
    ['api.example.test'],
  );
  for (const to of [...API, CDN]) assert.equal(await probe(to), 'pass', to);
  assert.equal(await probe(FORGED), 'blocked');
});

test('without a policy that names names nobody listens, and no rule looks at DNS', async () => {
  const chains = (): string => lab.machine.namespace.run('nft', 'list', 'chains', 'inet');
  assert.match(chains(), /names_in/);
  lab.agent.removePolicy('policy.yaml');
  await until('the rules are gone', () => !chains().includes('names_in'));
  const known = (await names()).length;
  await server.records({ 'late.cdn.example.test': { addresses: [CDN], ttl: 600 } });
  await client.ask({ server: SERVER, name: 'late.cdn.example.test', type: 'A' });
  assert.equal((await names()).length, known);
});

test('another listener in our place is told of, and followed when it is gone', async () => {
  const script = join(import.meta.dirname, '../host/packet-log-listener.ts');
  const other = lab.machine.namespace.start(process.execPath, ['--no-warnings', script, String(NAME_LOG.group)]);
  let said = '';
  other.stdout?.on('data', (chunk: Buffer) => {
    said += chunk.toString();
  });
  await until('the other one listens', () => said.includes('listening'));
  lab.agent.policy('policy.yaml', NAMES);
  const { text } = await lab.agent.untilHealth('AGT-NAMES');
  assert.match(text, /EPERM|permitted/);
  await endProcess(other);
  await lab.agent.untilStatus('we listen', ({ health }) => health.every(({ code }) => code !== 'AGT-NAMES'));
  await server.records({ 'again.cdn.example.test': { addresses: [CDN], ttl: 600 } });
  await client.ask({ server: SERVER, name: 'again.cdn.example.test', type: 'A' });
  await until('names are learnt', async () => (await names()).some(({ name }) => name === 'again.cdn.example.test'));
});
