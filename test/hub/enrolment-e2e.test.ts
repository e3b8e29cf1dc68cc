import assert from 'node:assert/strict';
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { joinFiles } from '../../src/agent/join/files.ts';
import type { AuditRecord, NewTokenRecord } from '../../src/api/enrolment.ts';
import type { HubStatusRecord } from '../../src/hub/types.ts';
import { Agent } from '../lab/agent.ts';
import { Door } from '../lab/door.ts';
import { loopbackAddress } from '../lab/etcd.ts';
import { endProcess, until } from '../lab/namespace.ts';
import type { Place } from '../lab/place.ts';
import { type DualAddress, Topology } from '../lab/topology.ts';

/** A hub and a machine, both the real program, from the first download to the last rule that is removed. */
const MAIN = join(import.meta.dirname, '../../src/main.ts');
const PORT = 24_790;
const address = loopbackAddress();
let folder: string;
let hub: ChildProcess;
let hubLog = '';
let topology: Topology;
let place: Place & DualAddress;
let agent: Agent;
const doors: Door[] = [];

interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

function run(...args: string[]): Promise<Ran> {
  const where = ['--state-dir', join(folder, 'hub'), '--socket', join(folder, 'hub.sock')];
  return execute(process.execPath, [MAIN, 'hub', ...args, ...where]);
}

function execute(command: string, args: readonly string[]): Promise<Ran> {
  return new Promise((resolve) => {
    execFile(command, args, { timeout: 90_000, maxBuffer: 1 << 26 }, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === 'number' ? error.code : -1;
      resolve({ code, stdout, stderr });
    });
  });
}

async function json<T>(...args: string[]): Promise<T> {
  const { code, stdout, stderr } = await run(...args, '-o', 'json');
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout) as T;
}

const audit = async (): Promise<readonly AuditRecord[]> => (await json<{ items: AuditRecord[] }>('audit')).items;

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'mesh-enrol-e2e-'));
  topology = new Topology();
  place = topology.machine('web-1');
  const listen = ['--listen-etcd', `${address}:${PORT}`, '--listen-enrolment', `${address}:${PORT + 5}`];
  const made = await run(
    'init',
    '--cluster-name',
    'vms',
    '--cluster-id',
    '100',
    '--pool',
    '10.192.0.0/16',
    '--name',
    address,
    ...listen,
  );
  assert.equal(made.code, 0, made.stderr);
  appendFileSync(join(folder, 'hub/hub/hub.yaml'), 'metrics: {listen: ""}\n');
  const where = ['--state-dir', join(folder, 'hub'), '--socket', join(folder, 'hub.sock')];
  hub = spawn('setpriv', ['--pdeathsig', 'KILL', process.execPath, MAIN, 'hub', 'run', ...where]);
  const keep = (data: Buffer): void => {
    hubLog = (hubLog + data.toString()).slice(-10_000);
  };
  hub.stdout?.on('data', keep);
  hub.stderr?.on('data', keep);
  await until(
    'the hub is complete',
    async () => {
      const { stdout } = await run('status', '-o', 'json');
      const status = stdout.startsWith('{') ? (JSON.parse(stdout) as HubStatusRecord) : undefined;
      const complete = (name: string): boolean =>
        status?.parts.some((part) => part.name === name && part.state === 'running') === true;
      return complete('enrolment') && complete('enrolment-care') && complete('registration');
    },
    60_000,
  ).catch((error: unknown) => {
    throw new Error(`${String(error)}\n${hubLog}`);
  });
  // What the package of this machine will be: the program behind a name.
  const program = join(folder, 'hub/hub/packages/mesh-agent-x64');
  writeFileSync(program, `#!/bin/sh\nexec ${process.execPath} ${MAIN} "$@"\n`);
  for (const port of [PORT, PORT + 5])
    doors.push(await Door.open(place, { host: address, port }, { host: address, port }));
  agent = new Agent({ place, folder: join(folder, 'machine'), config: {} });
  const { code, stderr } = await run('workload', 'create', 'web-1', '--label', 'app=backend');
  assert.equal(code, 0, stderr);
});
after(async () => {
  await agent?.stop();
  await Promise.all(doors.map((door) => door.close()));
  if (hub !== undefined) await endProcess(hub);
  await topology?.close();
  rmSync(folder, { recursive: true, force: true });
});

/** Runs a shell on the machine, where nothing is installed and all that is written is forgotten at the end. */
function onFreshMachine(script: string): Promise<Ran> {
  const prepare = `
    set -e
    mount -t tmpfs tmpfs /mnt
    mkdir /mnt/etc && cp -a /etc/. /mnt/etc/ && rm -rf /mnt/etc/mesh-agent && mount --bind /mnt/etc /etc
    mount -t tmpfs tmpfs /usr/local
    mount -t tmpfs tmpfs /var/lib
    mount -t tmpfs tmpfs /run
    set +e
  `;
  const inside = ['unshare', '-m', '--propagation', 'private', 'sh', '-c', prepare + script];
  return execute('nsenter', [`--net=/run/netns/${place.namespace.name}`, ...inside]);
}

test('the script of the hub is clean in the eyes of shellcheck and dash, and of a part of it nothing runs', async () => {
  const file = join(folder, 'install.sh');
  const { code, stdout, stderr } = await run('workload', 'install', file);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /The script is in/);
  assert.equal(statSync(file).mode & 0o777, 0o775);
  const text = readFileSync(file, 'utf8');
  const served = await execute('curl', [
    '-sS',
    '--cacert',
    join(folder, 'hub/hub/pki/ca.crt'),
    `https://${address}:${PORT + 5}/install.sh`,
  ]);
  assert.equal(served.stdout, text);
  assert.equal((await execute('dash', ['-n', file])).code, 0);
  const checked = await execute('shellcheck', ['-s', 'sh', file]);
  // Where it is not installed, dash has looked at it.
  if (checked.code !== -1) assert.equal(checked.code, 0, checked.stdout);
  const marks = join(folder, 'ran');
  for (let cut = 100; cut < text.length - 30; cut += Math.ceil(text.length / 25)) {
    const part = join(folder, 'part.sh');
    // Whatever of it ran would call one of these first.
    const traps = ['uname', 'id', 'mktemp', 'curl', 'command'].map((name) => `${name}() { touch ${marks}; exit 1; }`);
    writeFileSync(part, `${traps.join('\n')}\n${text.slice(0, cut)}`);
    await execute('dash', [part]);
    assert.ok(!existsSync(marks), `cut at ${cut}`);
  }
});

test('one command: curl, sh, a token; the machine is installed and joined', async () => {
  const made = await json<NewTokenRecord>('workload', 'token', 'web-1', '--ttl', '10m');
  assert.ok(Math.abs(made.expiresAt - made.createdAt - 600_000) < 1000);
  const ca = join(folder, 'hub/hub/pki/ca.crt');
  const { code, stdout, stderr } = await onFreshMachine(`
    curl -fsS --cacert ${ca} https://${address}:${PORT + 5}/install.sh | MESH_AGENT_TOKEN=${made.token} sh
    echo "exit $?"
    stat -c '%a %n' /usr/local/bin/mesh-agent /var/lib/mesh-agent /var/lib/mesh-agent/pki/agent.key
    cat /etc/mesh-agent/conf.d/50-join.yaml
    openssl verify -CAfile /var/lib/mesh-agent/pki/ca.crt /var/lib/mesh-agent/pki/agent.crt
    mesh-agent join --token ${made.token}; echo "again $?"
    mesh-agent leave; echo "without consent $?"
    mesh-agent leave --yes; echo "left $?"
    find /var/lib/mesh-agent /etc/mesh-agent -type f
  `);
  const all = `${stdout}\n${stderr}\n${hubLog}`;
  assert.equal(code, 0, all);
  assert.match(stdout, /exit 0/, all);
  assert.match(stdout, /755 \/usr\/local\/bin\/mesh-agent\n700 \/var\/lib\/mesh-agent\n600 .*agent\.key/);
  assert.match(stdout, /name: web-1/);
  assert.match(stdout, /agent\.crt: OK/);
  assert.match(stdout, /again 0/, all);
  assert.match(stdout, /without consent 6/);
  assert.match(stdout, /left 0\n*$/, `nothing is left: ${all}`);
  assert.match(stderr, /installing mesh-agent-x64/);
  const events = (await audit()).map(({ event }) => event);
  assert.deepEqual(events, ['token-created', 'joined', 'left']);
});

test('the script installs nothing from a hub of another authority, and nothing whose checksum is wrong', async () => {
  const file = join(folder, 'install.sh');
  const text = readFileSync(file, 'utf8');
  const other = join(folder, 'other.sh');
  const made = await execute('openssl', [
    'req',
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:prime256v1',
    '-nodes',
    '-keyout',
    '/dev/null',
    '-subj',
    '/CN=x',
  ]);
  writeFileSync(other, text.replace(/-----BEGIN CERTIFICATE[\s\S]*END CERTIFICATE-----\n/, made.stdout));
  const { stdout, stderr } = await onFreshMachine(`sh ${other} --token x; echo "exit $?"; ls /usr/local`);
  assert.match(stdout, /^exit 1\n$/);
  assert.match(stderr, /cannot be reached, or is not the one of this script/);
  const wrong = await onFreshMachine(`
    sha256sum() { command sha256sum "$@"; return 1; }
    mkdir -p /usr/local/sbin; printf '#!/bin/sh\\nexit 1\\n' >/usr/local/sbin/sha256sum; chmod 755 /usr/local/sbin/sha256sum
    PATH=/usr/local/sbin:$PATH sh ${file} --token x; echo "exit $?"; ls /usr/local/bin`);
  assert.match(wrong.stdout, /exit 1/);
  assert.match(wrong.stderr, /the checksum of mesh-agent-x64 is wrong/);
});

test('a script with a token in it works on one machine; without root, and for a stranger, it says why it does not', async () => {
  const file = join(folder, 'web-1.sh');
  const { stdout } = await run('workload', 'install', file, '--workload', 'web-1');
  assert.match(stdout, /It has a join token for web-1 in it, good until/);
  assert.equal(statSync(file).mode & 0o777, 0o775);
  const first = await onFreshMachine(`sh ${file} --no-start; echo "exit $?"`);
  assert.match(first.stdout, /exit 0/, first.stderr);
  const second = await onFreshMachine(`sh ${file}; echo "exit $?"`);
  assert.match(second.stdout, /exit 1/);
  assert.match(second.stderr, /JOIN-TOKEN-USED/);
  chmodSync(folder, 0o755);
  const user = await execute('setpriv', ['--reuid', '65534', '--clear-groups', 'sh', file]);
  assert.match(user.stderr, /it must be run as root/);
});

test('an agent that joined runs with what joining wrote, shows its certificate, and leaves with everything', async () => {
  const { token } = await json<NewTokenRecord>('workload', 'token', 'web-1');
  const inside = (...args: string[]): Promise<Ran> =>
    execute('nsenter', [
      `--net=/run/netns/${place.namespace.name}`,
      ...[
        process.execPath,
        MAIN,
        ...args,
        '--config',
        agent.configFile,
        '--state-dir',
        agent.stateDir,
        '--socket',
        agent.socket,
      ],
    ]);
  const joined = await inside('join', '--token', token);
  assert.equal(joined.code, 0, joined.stderr);
  agent.start();
  const status = await agent.untilReady(60_000);
  assert.equal(status.machine.name, 'web-1');
  assert.ok((status.certificate?.notAfter ?? 0) > Date.now() + 6 * 86_400_000);
  assert.match((await agent.run('status')).stdout, /Certificate:\s+until \S+, renewed in 4d/);
  assert.ok(
    status.allowances.some(({ what }) => what.includes(`${address}:${PORT + 5}`)),
    'the way to renewals is open',
  );
  const tables = (): string => place.namespace.run('nft', 'list', 'tables');
  assert.match(tables(), /mesh_agent/);
  assert.match(place.namespace.run('ip', '-o', 'link'), /mesh_vxlan/);
  const left = await inside('leave', '--yes', '-o', 'json');
  assert.equal(left.code, 0, left.stderr);
  const report = JSON.parse(left.stdout) as Record<string, unknown>;
  assert.equal(report.agent, 'process-stopped');
  assert.equal(report.deregistered, true);
  assert.equal(report.revoked, true);
  assert.ok(!agent.running);
  assert.doesNotMatch(tables(), /mesh_agent/);
  assert.doesNotMatch(place.namespace.run('ip', '-o', 'link'), /mesh_vxlan/);
  assert.equal(place.namespace.run('ip', 'route', 'show', 'table', 'all', 'proto', '77'), '');
  const files = joinFiles(agent.stateDir, agent.configFile);
  for (const path of [files.key, files.cert, files.ca, files.record, files.config]) assert.ok(!existsSync(path), path);
  assert.ok(existsSync(agent.configFile), 'what the operator wrote stays');
  const again = await inside('leave', '--yes');
  assert.equal(again.code, 0, `it can be said again: ${again.stderr}`);
});
