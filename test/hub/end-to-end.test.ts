import assert from 'node:assert/strict';
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { openMachineAccess } from '../../src/hub/etcd/machine-access.ts';
import { storeAccess } from '../../src/hub/hub-store.ts';
import { loadHub } from '../../src/hub/init.ts';
import type { HubStatusRecord } from '../../src/hub/types.ts';
import type { WorkloadRecord } from '../../src/hub/workloads/records.ts';
import { openWriterStore, type WriterStore } from '../../src/kvstore/writer-store.ts';
import { openAuthority } from '../../src/pki/authority.ts';
import { writeFileSafely } from '../../src/pki/files.ts';
import { generateKey, privateKeyPem } from '../../src/pki/keys.ts';
import { Agent } from '../lab/agent.ts';
import { Door } from '../lab/door.ts';
import { loopbackAddress } from '../lab/etcd.ts';
import { endProcess, until } from '../lab/namespace.ts';
import { Topology } from '../lab/topology.ts';

/**
 * A hub and its machines, all of them the real program: certificates, access control and etcd of the hub's own. Only the
 * certificates are handed out here, as enrolment would.
 */
const MAIN = join(import.meta.dirname, '../../src/main.ts');
const PORT = 23_790;
let folder: string;
let hub: ChildProcess;
let hubLog = '';
let admin: WriterStore;
let topology: Topology;
const agents = new Map<string, Agent>();
const doors: Door[] = [];

function run(...args: string[]): Promise<string> {
  const where = ['--state-dir', join(folder, 'hub'), '--socket', join(folder, 'hub.sock')];
  return new Promise((resolve, reject) => {
    execFile(
      process.execPath,
      ['--no-warnings', MAIN, 'hub', ...args, ...where],
      { timeout: 60_000 },
      (error, out, err) => (error === null ? resolve(out) : reject(new Error(`hub ${args.join(' ')}: ${out}${err}`))),
    );
  });
}

async function json<T>(...args: string[]): Promise<T> {
  return JSON.parse(await run(...args, '-o', 'json')) as T;
}

const workload = (name: string): Promise<WorkloadRecord> => json('workload', 'get', name);

async function join_(name: string): Promise<Agent> {
  const place = topology.machine(name);
  const base = join(folder, name);
  mkdirSync(base);
  const { folder: files } = loadHub(join(folder, 'hub'));
  const ca = openAuthority({
    certificate: readFileSync(files.ca.cert, 'utf8'),
    key: readFileSync(files.ca.key, 'utf8'),
  });
  const key = generateKey();
  await writeFileSafely(join(base, 'agent.key'), privateKeyPem(key));
  const { pem } = ca.issueClient({ commonName: `machine:${name}`, publicKey: key, seconds: 3600 });
  await writeFileSafely(join(base, 'agent.crt'), pem);
  await openMachineAccess({ session: admin.session, cluster: 'vms', onRevoked: () => undefined }).grant(name);
  doors.push(await Door.open(place, { host: '127.0.0.1', port: 2379 }, { host: loopbackAddress(), port: PORT }));
  const kvstore = {
    endpoints: ['https://127.0.0.1:2379'],
    ca: files.ca.cert,
    cert: join(base, 'agent.crt'),
    key: join(base, 'agent.key'),
  };
  const agent = new Agent({ place, folder: base, config: { name, kvstore } });
  agents.set(name, agent);
  agent.start();
  return agent;
}

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'mesh-e2e-'));
  topology = new Topology();
  const listen = [
    '--listen-etcd',
    `${loopbackAddress()}:${PORT}`,
    '--listen-enrolment',
    `${loopbackAddress()}:${PORT + 5}`,
  ];
  await run(
    'init',
    '--cluster-name',
    'vms',
    '--cluster-id',
    '100',
    '--pool',
    '10.192.0.0/16',
    '--name',
    'hub.example.com',
    ...listen,
  );
  appendFileSync(join(folder, 'hub/hub/hub.yaml'), 'metrics: {listen: ""}\n');
  const args = ['--pdeathsig', 'KILL', process.execPath, '--no-warnings', MAIN, 'hub', 'run'];
  hub = spawn('setpriv', [...args, '--state-dir', join(folder, 'hub'), '--socket', join(folder, 'hub.sock')]);
  const keep = (data: Buffer): void => {
    hubLog = (hubLog + data.toString()).slice(-10_000);
  };
  hub.stdout?.on('data', keep);
  hub.stderr?.on('data', keep);
  let seen = '';
  await until(
    'the hub leads and is complete',
    async () => {
      seen = await run('status', '-o', 'json').catch(String);
      const status = seen.startsWith('{') ? (JSON.parse(seen) as HubStatusRecord) : undefined;
      return (
        status?.parts.some(
          ({ name, facts }) => name === 'registration' && 'complete' in facts && facts.complete === true,
        ) === true
      );
    },
    60_000,
  ).catch((error: unknown) => {
    throw new Error(`${String(error)}\n${seen}\n${hubLog}`);
  });
  const { config, folder: files } = loadHub(join(folder, 'hub'));
  admin = openWriterStore({ etcd: async () => storeAccess(config, files) });
});
after(async () => {
  await Promise.all([...agents.values()].map((agent) => agent.stop()));
  await Promise.all(doors.map((door) => door.close()));
  await admin?.close();
  if (hub !== undefined) await endProcess(hub);
  await topology?.close();
  rmSync(folder, { recursive: true, force: true });
});

test('a machine joins with its certificate, follows the cluster of the hub and is shown', async () => {
  assert.match(
    await run('workload', 'create', 'my-vm', '--label', 'app=backend', 'env=prod', '--namespace', 'shop'),
    /10\.192\.0\.0\/30/,
  );
  const agent = await join_('my-vm');
  const status = await agent.untilReady(60_000);
  const record = await workload('my-vm');
  assert.equal(status.machine.identity, record.identity);
  assert.equal(record.state, 'registered');
  assert.deepEqual([...record.addresses].sort(), ['10.192.0.1', '192.168.100.10', 'fd00:100::10']);
  assert.deepEqual([record.refused, record.claims, record.reason], [[], [], null]);
  const list = await run('vm', 'list', '-o', 'wide');
  assert.match(list, /shop\/my-vm\s+registered\s+\d+\s+\S+\s+now/);
  assert.match(await run('workload', 'get', 'my-vm'), /State:\s+registered/);
});

test('machines see each other under their identities', async () => {
  await run('vm', 'create', 'other', '--label', 'app=db');
  const other = await join_('other');
  await other.untilReady(60_000);
  const { identity } = await workload('my-vm');
  await until('the other one knows it', async () => {
    const entry = await other.api.ipcacheGet('192.168.100.10').catch(() => undefined);
    return entry?.identity === identity;
  });
});

test('labels that change at the hub reach the machine and its neighbors', async () => {
  const before_ = (await workload('my-vm')).identity;
  assert.match(await run('workload', 'set', 'my-vm', '--label', 'env=test', '--remove-label', 'app'), /env=test\./);
  const after_ = await agents.get('my-vm')?.untilStatus('it has another identity', ({ machine, registration }) => {
    const id = machine.identity;
    return id !== undefined && id !== before_ && registration.state === 'registered';
  });
  const { identity, claims } = await workload('my-vm');
  assert.equal(after_?.machine.identity, identity);
  assert.deepEqual(claims, []);
  await until('the other one knows it', async () => {
    const entry = await agents
      .get('other')
      ?.api.ipcacheGet('192.168.100.10')
      .catch(() => undefined);
    return entry?.identity === identity;
  });
});

test('a workload that is deleted vanishes from its neighbors, and its machine has no rights left', async () => {
  await run('workload', 'delete', 'my-vm');
  await until('the other one forgot it', async () => {
    const entry = await agents
      .get('other')
      ?.api.ipcacheGet('192.168.100.10')
      .catch(() => undefined);
    return entry?.identity !== undefined ? entry.identity < 256 : true;
  });
  await agents
    .get('my-vm')
    ?.untilStatus('it is told', ({ health }) =>
      health.some(({ severity, code }) => severity === 'error' && code.startsWith('KVS-')),
    );
  assert.equal(await admin.get('cilium/state/noderegister/v1/my-vm'), undefined);
  await assert.rejects(run('workload', 'get', 'my-vm'), /HUB-WORKLOAD-MISSING|no workload of that name/);
});

test('what is wrong with a command is said, with its remedy', async () => {
  await assert.rejects(run('vm', 'create', 'Bad_Name'), /no DNS name/);
  await assert.rejects(run('vm', 'create', 'other'), /already/);
  await assert.rejects(run('vm', 'create', 'x', '--ipv4-alloc-cidr', '10.192.0.0/16'), /takes all of the pool/);
  await assert.rejects(run('vm', 'create', 'x', '--label', 'nothing'), /key=value/);
});
