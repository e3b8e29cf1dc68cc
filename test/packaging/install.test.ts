import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { NewTokenRecord } from '../../src/api/enrolment.ts';
import { formatJoinToken, makeJoinToken, parseJoinToken } from '../../src/pki/join-token.ts';
import { HubHost } from '../lab/hub-host.ts';
import { host, until } from '../lab/namespace.ts';
import type { Place } from '../lab/place.ts';
import { type DualAddress, Topology } from '../lab/topology.ts';
import { buildPackage } from './build.ts';
import { type Ran, SystemdMachine } from './systemd-machine.ts';

/** `install.sh` on a machine with systemd, from a hub and from a folder. */
const NEXT_VERSION = '99.0.0';
const [ALLOWED, FORBIDDEN] = [7001, 7002];
const INSTALL = join(import.meta.dirname, '../../install.sh');

let folder: string;
let topology: Topology;
let hub: HubHost;
let machine: SystemdMachine;
let deb: string;
/** Of the same sources, but newer. */
let next: string;
let place: Place & DualAddress;

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'mesh-install-'));
  deb = await buildPackage('deb', folder);
  next = await buildPackage('deb', folder, NEXT_VERSION);
  topology = new Topology();
  hub = new HubHost({ place: topology.host('hub', 5), folder: join(folder, 'hub') });
  await hub.init();
  hub.start();
  await hub.untilLeading();
  await hub.must('workload', 'create', 'my-vm', '--label', 'app=backend');
  copyFileSync(deb, join(hub.stateDir, 'hub/packages', basename(deb)));
  place = topology.machine('my-vm');
  machine = new SystemdMachine(place.namespace, join(folder, 'machine'));
  machine.copy(INSTALL, '/root/install.sh');
  await machine.boot();
});
after(async () => {
  await machine?.close();
  await hub?.stop();
  await topology?.close();
  rmSync(folder, { recursive: true, force: true });
});

const install = (...args: string[]): Promise<Ran> => machine.run('sh', '/root/install.sh', ...args);
const token = async (): Promise<string> => (await hub.json<NewTokenRecord>('workload', 'token', 'my-vm')).token;

/** Nothing of a package, a unit, a key or a rule. */
async function assertUntouched(): Promise<void> {
  const left = await machine.must('find', '/etc', '/usr', '/var/lib', '/run', '-xdev', '-name', '*mesh-agent*');
  assert.deepEqual(
    left.split('\n').filter((path) => path !== '' && !path.startsWith('/var/lib/dpkg')),
    [],
  );
}

const untilEnforced = () => machine.untilEnforced();

test('the script is clean in the eyes of shellcheck', () => {
  host('shellcheck', '-s', 'sh', INSTALL);
});

test('a rehearsal says what would be done and does nothing', async () => {
  const { code, stderr } = await install('--dry-run', '--token', await token());
  assert.equal(code, 0, stderr);
  assert.match(stderr, /would install mesh-agent_.*_amd64\.deb from the hub/);
  assert.match(stderr, /would run: mesh-agent join --token-file/);
  await assertUntouched();
});

test('a hub that is not the one of the token gets nothing onto the machine', async () => {
  const real = parseJoinToken(await token());
  const other = makeJoinToken({ ...real, caHash: Buffer.alloc(32, 7).toString('base64url') });
  const { code, stderr } = await install('--token', formatJoinToken(other));
  assert.equal(code, 1);
  assert.match(stderr, /is not the one that the token names/);
  await assertUntouched();
});

for (const [what, args, message] of [
  ['an unknown option', ['--tokn', 'x'], /unknown option: --tokn/],
  ['no token', [], /a join token is needed/],
  ['a token that is none', ['--token', 'x'], /it is not known where mesh-agent comes from/],
  ['a folder that is not there', ['--from', '/nowhere'], /there is no folder \/nowhere/],
  ['a source that cannot be trusted', ['--from', 'http://hub'], /only https:\/\/ and folders/],
] as const) {
  test(`${what} is told, and nothing is changed`, async () => {
    const { code, stderr } = await install(...args);
    assert.notEqual(code, 0);
    assert.match(stderr, message);
    await assertUntouched();
  });
}

test('one command and a token: installed from the hub, joined, active and enforced', async () => {
  const { code, stderr } = await install('--token', await token());
  assert.equal(code, 0, stderr);
  await untilEnforced();
  const unit = await machine.show('mesh-agent', 'ActiveState', 'UnitFileState');
  assert.deepEqual([unit.ActiveState, unit.UnitFileState], ['active', 'enabled']);
  assert.equal((await machine.show('mesh-agent-restore', 'UnitFileState')).UnitFileState, 'enabled');
});

/** New flows to the machine during something: of the one that the policy of the hub allows no packet is lost, of the other none gets in. */
async function underTraffic(change: () => Promise<void>): Promise<void> {
  const options = { fresh: true, everyMs: 5 };
  const flows = await Promise.all([ALLOWED, FORBIDDEN].map((port) => topology.world.flow(place.ipv4, port, options)));
  await change();
  const [allowed, forbidden] = await Promise.all(flows.map((flow) => flow.stop()));
  assert.ok((allowed?.sent ?? 0) > 50, `${allowed?.sent} sent`);
  assert.equal(allowed?.received, allowed?.sent);
  assert.equal(forbidden?.received, 0);
}

test('a policy of the hub is enforced, and stays so when the agent is killed', async () => {
  await place.listen({ tcp: [], udp: [ALLOWED, FORBIDDEN] });
  const ports = [{ ports: [{ port: String(ALLOWED), protocol: 'UDP' }] }];
  const policy = {
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNetworkPolicy',
    metadata: { name: 'telemetry', namespace: 'default' },
    spec: {
      endpointSelector: { matchLabels: { app: 'backend' } },
      ingress: [{ fromEntities: ['world'], toPorts: ports }],
    },
  };
  writeFileSync(join(folder, 'policy.json'), JSON.stringify(policy));
  await hub.must('policy', 'apply', '-f', join(folder, 'policy.json'));
  const probe = (port: number) => topology.world.probe({ protocol: 'udp', to: place.ipv4, port });
  await until('the policy is in force', async () => (await probe(FORBIDDEN)) === 'blocked', 20_000);
  await underTraffic(() => machine.killAgent());
});

test('upgraded from the hub and rolled back to a version that is named, under traffic', async () => {
  const offered = join(hub.stateDir, 'hub/packages', basename(next));
  copyFileSync(next, offered);
  const from = ['--hub', `https://${hub.place.ipv4}:8443`, '--ca', '/var/lib/mesh-agent/pki/ca.crt', '--no-start'];
  const version = /_(.*)_/.exec(basename(deb))?.[1] ?? '';
  for (const [wanted, args] of [
    [NEXT_VERSION, from],
    [version, [...from, '--version', version]],
  ] as const) {
    await underTraffic(async () => {
      const { code, stderr } = await install(...args);
      assert.equal(code, 0, stderr);
      const runs = async (): Promise<boolean> => (await machine.status())?.agent.version === wanted;
      await until(`version ${wanted} runs`, runs, 30_000);
      await untilEnforced();
    });
  }
  const { code, stderr } = await install(...from, '--version', '1.2.3');
  assert.equal(code, 1);
  assert.match(stderr, /there is no mesh-agent 1\.2\.3/);
  rmSync(offered);
});

test('a boot with the hub away has the rules before the network, and joins its hub again when that is back', async () => {
  await machine.watchBoots();
  await machine.powerOff();
  await hub.stop();
  await machine.boot();
  assert.match(machine.witnessed(), /chain entering/);
  await until('the agent runs', async () => (await machine.status())?.lastGood?.enforced === 'snapshot', 30_000);
  await underTraffic(() => sleep(1000));
  hub.start();
  await hub.untilLeading();
  await underTraffic(untilEnforced);
});

test('run again it changes nothing', async () => {
  const { MainPID: before } = await machine.show('mesh-agent', 'MainPID');
  const { code, stderr } = await install('--from', '/nothing-here', '--no-start');
  assert.equal(code, 1, stderr);
  const again = await install(
    '--hub',
    `https://${hub.place.ipv4}:8443`,
    '--ca',
    '/var/lib/mesh-agent/pki/ca.crt',
    '--no-start',
  );
  assert.equal(again.code, 0, again.stderr);
  assert.match(again.stderr, /is installed already/);
  assert.equal((await machine.show('mesh-agent', 'MainPID')).MainPID, before);
});

test('uninstalled and purged the machine is as it was', async () => {
  const { code, stderr } = await install('--uninstall', '--purge');
  assert.equal(code, 0, stderr);
  const { namespace } = place;
  assert.equal(namespace.run('nft', 'list', 'ruleset').includes('mesh_agent'), false);
  assert.notEqual(namespace.try('ip', 'link', 'show', 'mesh_vxlan').code, 0);
  await assertUntouched();
  assert.equal((await install('--uninstall')).code, 0);
});

test('an image: installed from a signed folder, joined at the first boot with the token that it finds there', async () => {
  const source = join(folder, 'source');
  mkdirSync(source);
  const name = basename(deb);
  copyFileSync(deb, join(source, name));
  const [key, pub] = [join(folder, 'release.key'), join(source, 'release.pub')];
  host('openssl', 'ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', key);
  writeFileSync(pub, host('openssl', 'ec', '-in', key, '-pubout'));
  const sums = join(source, 'SHA256SUMS');
  writeFileSync(sums, host('sh', '-c', `cd '${source}' && sha256sum '${name}'`));
  for (const file of [name, 'release.pub', 'SHA256SUMS']) machine.copy(join(source, file), `/root/source/${file}`);
  const from = ['--from', '/root/source', '--key', '/root/source/release.pub', '--no-start'];
  const unsigned = await install(...from);
  assert.match(unsigned.stderr, /there is no signature/);
  host('openssl', 'dgst', '-sha256', '-sign', key, '-out', `${sums}.sig`, sums);
  machine.copy(`${sums}.sig`, '/root/source/SHA256SUMS.sig');
  machine.write('/root/source/SHA256SUMS', `${'0'.repeat(64)}  ${name}\n`);
  assert.match((await install(...from)).stderr, /the signature of SHA256SUMS is wrong/);
  assert.match((await install('--from', '/root/source', '--no-start')).stderr, /the checksum of .* is wrong/);
  await assertUntouched();

  machine.copy(sums, '/root/source/SHA256SUMS');
  const { code, stderr } = await install(...from);
  assert.equal(code, 0, stderr);
  assert.equal((await machine.show('mesh-agent', 'ActiveState')).ActiveState, 'inactive');
  await machine.shutdown();
  machine.write('/etc/mesh-agent/join-token', await token());
  await machine.boot();
  await untilEnforced();
  assert.equal(machine.has('/etc/mesh-agent/join-token'), false);
});
