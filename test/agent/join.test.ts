import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash, createPrivateKey, X509Certificate } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { connect, createServer as createTcpServer, type Server, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { type JoinFiles, joinFiles } from '../../src/agent/join/files.ts';
import { type JoinOptions, joinHub } from '../../src/agent/join/join.ts';
import { loadConfig } from '../../src/config/load.ts';
import { registerKey } from '../../src/kvstore/paths.ts';
import { createAuthority, openAuthority } from '../../src/pki/authority.ts';
import { formatJoinToken, parseJoinToken } from '../../src/pki/join-token.ts';
import { generateKey, privateKeyPem } from '../../src/pki/keys.ts';
import { runMain } from '../cli/run-command.ts';
import { codeOf, EnrolmentLab, runProgram } from '../hub/enrolment-lab.ts';
import { loopbackAddress } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';

let lab: EnrolmentLab;
const servers: Server[] = [];

before(async () => {
  lab = await EnrolmentLab.start({ limits: { refusals: 10_000 } });
});
after(async () => {
  for (const server of servers) server.close();
  await lab?.close();
});

interface Machine {
  readonly name: string;
  readonly stateDir: string;
  readonly configFile: string;
  readonly files: JoinFiles;
  readonly token: string;
  /** Joins with the token of this machine. */
  join(more?: Partial<JoinOptions>): ReturnType<typeof joinHub>;
}

async function machine(name: string): Promise<Machine> {
  await lab.workload(name);
  const { token } = await lab.token(name);
  const folder = lab.place();
  const stateDir = join(folder, 'state');
  const configFile = join(folder, 'etc/config.yaml');
  mkdirSync(dirname(configFile));
  return {
    name,
    stateDir,
    configFile,
    files: joinFiles(stateDir, configFile),
    token,
    join: (more = {}) => joinHub({ stateDir, configFile, token, ...more }),
  };
}

/** A server of this process that machines are sent to. */
async function listen(server: Server, address = lab.address): Promise<string> {
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, address, resolve));
  const at = server.address();
  return `https://${address}:${typeof at === 'object' ? at?.port : 0}`;
}

const isOpen = async (name: string): Promise<boolean> =>
  (await lab.tokens()).some(({ workload, state }) => workload === name && state === 'open');

test('joining makes the key here, for root alone, and writes a configuration with which the agent reaches the store', async () => {
  const vm = await machine('vm-1');
  const report = await vm.join();
  assert.equal(report.state, 'joined');
  assert.equal(statSync(vm.files.key).mode & 0o777, 0o600);
  assert.equal(statSync(vm.files.pki).mode & 0o777, 0o700);
  assert.equal(statSync(vm.stateDir).mode & 0o777, 0o700);
  const certificate = new X509Certificate(readFileSync(vm.files.cert));
  assert.ok(certificate.checkPrivateKey(createPrivateKey(readFileSync(vm.files.key))));
  const verified = await runProgram('openssl', [
    'verify',
    '-purpose',
    'sslclient',
    '-CAfile',
    vm.files.ca,
    vm.files.cert,
  ]);
  assert.equal(verified.code, 0, verified.stderr);
  writeFileSync(vm.configFile, 'audit: true\n');
  const { config } = await loadConfig({ file: vm.configFile, env: {} });
  assert.equal(config.name, 'vm-1');
  assert.equal(config.audit, true);
  assert.deepEqual(config.cluster, { name: 'vms', id: 100 });
  const { endpoints, ca, cert, key } = config.kvstore;
  assert.deepEqual([ca, cert, key], [vm.files.ca, vm.files.cert, vm.files.key]);
  const store = lab.machine({ cert: readFileSync(cert ?? '', 'utf8'), key: readFileSync(key ?? '', 'utf8') });
  await store.put(registerKey('vm-1'), 'here');
  assert.deepEqual(endpoints, [`https://${lab.address}:${lab.port - 5}`]);
  assert.ok(!existsSync(vm.files.pendingKey) && !existsSync(vm.files.pendingAnswer));
});

test('the private key is not in what the hub was sent or keeps', async () => {
  const vm = await machine('vm-2');
  await vm.join();
  const secret = createPrivateKey(readFileSync(vm.files.key)).export({ format: 'jwk' }).d ?? '';
  const { entries } = await lab.store.readPrefix('mesh-agent/');
  for (const form of [secret, Buffer.from(secret, 'base64url').toString('base64')])
    for (const { value } of entries) assert.ok(!value.includes(form));
});

test('joining again with the same token changes nothing, and heals a configuration that is gone', async () => {
  const vm = await machine('vm-3');
  await vm.join();
  const hash = (): string =>
    createHash('sha256').update(readFileSync(vm.files.key)).update(readFileSync(vm.files.cert)).digest('hex');
  const before_ = hash();
  assert.equal((await vm.join()).state, 'unchanged');
  assert.equal(hash(), before_);
});

test('a machine that is joined asks for consent before it is replaced', async () => {
  const vm = await machine('vm-4');
  await vm.join();
  const { token } = await lab.token('vm-4');
  assert.equal(await codeOf(vm.join({ token })), 'JOIN-PRESENT');
  assert.ok(await isOpen('vm-4'), 'the token was not used up');
  const key = readFileSync(vm.files.key, 'utf8');
  await vm.join({ token, force: true });
  assert.notEqual(readFileSync(vm.files.key, 'utf8'), key, 'a new join has a new key');
});

test('what the operator wrote is not touched, even under our name', async () => {
  const vm = await machine('vm-5');
  writeFileSync(vm.configFile, '# mine\naudit: true\n');
  mkdirSync(dirname(vm.files.config));
  writeFileSync(join(dirname(vm.files.config), '10-mine.yaml'), 'log: {level: warn}\n');
  writeFileSync(vm.files.config, '# written by hand\nname: other\n');
  assert.equal(await codeOf(vm.join()), 'JOIN-CONFIG');
  assert.ok(await isOpen('vm-5'));
  rmSync(vm.files.config);
  await vm.join();
  assert.equal(readFileSync(vm.configFile, 'utf8'), '# mine\naudit: true\n');
  assert.deepEqual(readdirSync(dirname(vm.files.config)).sort(), ['10-mine.yaml', '50-join.yaml']);
});

test('a join that is killed before any of its steps goes on with the same token', { timeout: 120_000 }, async () => {
  const worker = join(import.meta.dirname, 'join-worker.ts');
  let killed = 0;
  for (let step = 1; ; step++) {
    const vm = await machine(`crash-${step}`);
    const args = [worker, String(step), vm.stateDir, vm.configFile, vm.token];
    const { code, stderr } = await runProgram(process.execPath, ['--no-warnings', ...args]);
    if (code === 0) break;
    assert.equal(stderr, '', `step ${step}`);
    killed++;
    const report = await vm.join();
    assert.ok(['joined', 'unchanged'].includes(report.state));
    const certificate = new X509Certificate(readFileSync(vm.files.cert));
    assert.ok(certificate.checkPrivateKey(createPrivateKey(readFileSync(vm.files.key))), `step ${step}`);
    assert.equal((await vm.join()).state, 'unchanged', `step ${step}`);
    assert.deepEqual(
      readdirSync(vm.files.pki)
        .filter((name) => !name.startsWith('.'))
        .sort(),
      ['agent.crt', 'agent.key', 'ca.crt'].sort(),
      `step ${step}`,
    );
  }
  assert.ok(killed >= 8, `${killed} steps`);
});

test('a token for another name, a broken one, and one of another hub are refused on the machine, with reasons', async () => {
  const vm = await machine('vm-6');
  assert.equal(await codeOf(vm.join({ name: 'vm-7' })), 'JOIN-WRONG-NAME');
  assert.equal(await codeOf(vm.join({ token: `${vm.token.slice(0, -1)}_` })), 'JOIN-TOKEN');
  const parsed = parseJoinToken(vm.token);
  const foreign = formatJoinToken({ ...parsed, caHash: Buffer.alloc(32, 1).toString('base64url') });
  assert.equal(await codeOf(vm.join({ token: foreign })), 'JOIN-PIN');
  assert.equal(
    await codeOf(vm.join({ token: formatJoinToken({ ...parsed, secret: Buffer.alloc(24) }) })),
    'JOIN-TOKEN-UNKNOWN',
  );
  assert.ok(await isOpen('vm-6'));
  assert.equal((await vm.join()).name, 'vm-6');
});

test('a used and an expired token are told apart', async () => {
  const vm = await machine('vm-8');
  await vm.join();
  const other = await machine('vm-9');
  assert.equal(await codeOf(other.join({ token: vm.token })), 'JOIN-TOKEN-USED');
  lab.skewMs = 2 * 3_600_000;
  try {
    assert.equal(await codeOf(other.join()), 'JOIN-TOKEN-EXPIRED');
  } finally {
    lab.skewMs = 0;
  }
});

/** HTTPS with a certificate for our address, of the authority that is given; it hears what is said to it. */
function impostor(pems: ReturnType<typeof createAuthority>, chain: string): { server: Server; heard: string[] } {
  const key = generateKey();
  const names = [lab.address, 'hub.example.com'];
  const { pem } = openAuthority(pems).issueServer({
    commonName: 'mesh-agent hub',
    publicKey: key,
    seconds: 3600,
    names,
  });
  const heard: string[] = [];
  const server = createServer({ key: privateKeyPem(key), cert: pem + chain }, (request, response) => {
    request.on('data', (data: Buffer) => heard.push(data.toString()));
    request.on('end', () => response.end('{}'));
    heard.push(String(request.url));
  });
  server.on('tlsClientError', () => {});
  return { server, heard };
}

test('someone in between with another authority hears nothing, and is told loudly', async () => {
  const vm = await machine('vm-10');
  const pems = createAuthority('mesh-agent hub vms');
  const { server, heard } = impostor(pems, pems.certificate);
  const hub = await listen(server);
  await assert.rejects(vm.join({ hub }), (error: Error) => {
    assert.match(error.message, /THE HUB IS NOT THE ONE THAT THE TOKEN NAMES/);
    assert.ok(error.message.includes(parseJoinToken(vm.token).caHash));
    return true;
  });
  assert.deepEqual(heard, []);
  assert.ok(await isOpen('vm-10'));
  assert.ok(!existsSync(vm.files.key) && !existsSync(vm.files.config));
});

test('an impostor that shows the true authority in its chain without having its key is not believed', async () => {
  const vm = await machine('vm-11');
  const pems = createAuthority('mesh-agent hub vms');
  const { server, heard } = impostor(pems, `${pems.certificate}${lab.pki.ca.certificate}`);
  assert.match(await codeOf(vm.join({ hub: await listen(server) })), /^JOIN-(PIN|SERVER|UNREACHABLE)$/);
  assert.deepEqual(heard, []);
});

test('who lets the first look through to the hub and takes the second connection is not believed', async () => {
  const vm = await machine('vm-12');
  const pems = createAuthority('mesh-agent hub vms');
  const { server, heard } = impostor(pems, pems.certificate);
  const wrong = new URL(await listen(server));
  let count = 0;
  const proxy = createTcpServer((socket) => {
    const to = count++ === 0 ? { host: lab.address, port: lab.port } : { host: lab.address, port: Number(wrong.port) };
    pipe(socket, connect(to));
  });
  assert.equal(await codeOf(vm.join({ hub: await listen(proxy) })), 'JOIN-PIN');
  assert.equal(count, 2);
  assert.deepEqual(heard, []);
});

function pipe(one: Socket, other: Socket): void {
  one.pipe(other).pipe(one);
  one.on('error', () => other.destroy());
  other.on('error', () => one.destroy());
}

test('the hub under a name that its certificate does not carry is refused', async () => {
  const vm = await machine('vm-13');
  const proxy = createTcpServer((socket) => pipe(socket, connect({ host: lab.address, port: lab.port })));
  const hub = await listen(
    proxy,
    loopbackAddress()
      .replace('127.', '127.1')
      .replace(/^127\.1(\d{2})/, '127.1$1'),
  );
  assert.equal(await codeOf(vm.join({ hub })), 'JOIN-SERVER');
  assert.ok(await isOpen('vm-13'));
});

test('a hub that is away, silent, or no hub at all is unreachable, and the next one in the token is asked', async () => {
  const vm = await machine('vm-14');
  assert.equal(await codeOf(vm.join({ hub: `https://${lab.address}:1` })), 'JOIN-UNREACHABLE');
  assert.equal(await codeOf(vm.join({ hub: 'https://no.such.host.invalid:8443' })), 'JOIN-UNREACHABLE');
  const silent = await listen(createTcpServer(() => {}));
  assert.equal(await codeOf(vm.join({ hub: silent, timeoutMs: 300 })), 'JOIN-UNREACHABLE');
  const plain = await listen(createTcpServer((socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n')));
  assert.equal(await codeOf(vm.join({ hub: plain })), 'JOIN-UNREACHABLE');
  assert.equal(await codeOf(vm.join({ hub: 'http://hub:1' })), 'JOIN-UNREACHABLE');
  const token = formatJoinToken({ ...parseJoinToken(vm.token), hubs: [`https://${lab.address}:1`, lab.url] });
  assert.equal((await vm.join({ token })).state, 'joined');
});

test('a clock that is wrong is told before the token is used', async () => {
  const vm = await machine('vm-15');
  for (const skew of [-2 * 3_600_000, 2 * 3_600_000, 30 * 86_400_000])
    assert.equal(await codeOf(vm.join({ now: () => Date.now() + skew })), 'JOIN-CLOCK');
  assert.ok(await isOpen('vm-15'));
  await vm.join({ now: () => Date.now() + 10 * 60_000 });
});

test('a certificate that is not for us is not taken: another key, another name, another authority, for servers', async () => {
  const { readCertificateAnswer } = await import('../../src/agent/join/certificate-answer.ts');
  const { ca } = lab.pki;
  const key = generateKey();
  const good = {
    certificate: ca.issueClient({ commonName: 'machine:x', publicKey: key, seconds: 60 }).pem,
    ca: ca.certificate,
    notAfter: '',
    workload: { name: 'x' },
    cluster: { name: 'vms', id: 100 },
    endpoints: ['https://hub:2379'],
    hubs: ['https://hub:8443'],
  };
  const expected = { key, workload: 'x', caHash: ca.publicKeyHash, now: Date.now() };
  const read = (change: object, now = Date.now()) =>
    readCertificateAnswer(JSON.stringify({ ...good, ...change }), { ...expected, now });
  assert.equal(read({}).certificate.subject, 'CN=machine:x');
  const other = openAuthority(createAuthority('other'));
  const issue = (commonName: string, publicKey = key): object => ({
    certificate: ca.issueClient({ commonName, publicKey, seconds: 60 }).pem,
  });
  const server = ca.issueServer({ commonName: 'machine:x', publicKey: key, seconds: 60, names: ['x'] }).pem;
  for (const change of [
    issue('machine:x', generateKey()),
    issue('machine:y'),
    issue('root'),
    { certificate: server },
    { certificate: other.issueClient({ commonName: 'machine:x', publicKey: key, seconds: 60 }).pem },
    { ca: other.certificate },
    { certificate: 'junk' },
    { certificate: good.certificate + good.certificate },
    { endpoints: [] },
    { endpoints: ['http://hub:2379'] },
    { hubs: ['https://hub/path'] },
    { cluster: { name: 'a: b', id: 1 } },
    { workload: { name: 'y' } },
  ])
    assert.throws(() => read(change), { code: 'JOIN-ANSWER' }, JSON.stringify(change));
  assert.throws(() => read({}, Date.now() + 120_000), { code: 'JOIN-CLOCK' });
  for (const text of ['', 'null', '[]', '{}'])
    assert.throws(() => readCertificateAnswer(text, expected), { code: 'JOIN-ANSWER' });
});

test('without the right to write nothing is asked of the hub', async () => {
  const vm = await machine('vm-16');
  chmodSync(dirname(vm.configFile), 0o555);
  const folder = dirname(dirname(vm.configFile));
  chmodSync(folder, 0o755);
  for (let at = folder; at !== '/tmp' && at !== '/'; at = dirname(at)) chmodSync(at, statSync(at).mode | 0o055);
  const script = `
    const { joinHub } = await import(${JSON.stringify(join(import.meta.dirname, '../../src/agent/join/join.ts'))});
    process.setgid(65534); process.setuid(65534);
    await joinHub(${JSON.stringify({ stateDir: vm.stateDir, configFile: vm.configFile, token: vm.token })})
      .catch((error) => console.log(error.code));`;
  const { stdout, stderr } = await runProgram(process.execPath, ['--no-warnings', '--input-type=module', '-e', script]);
  assert.equal(stdout.trim(), 'JOIN-PERMISSION', stderr);
  assert.ok(await isOpen('vm-16'));
});

test('two joins on one machine do not mix', async () => {
  const vm = await machine('vm-17');
  const results = await Promise.allSettled([vm.join(), vm.join(), vm.join()]);
  assert.ok(results.some(({ status }) => status === 'fulfilled'));
  const certificate = new X509Certificate(readFileSync(vm.files.cert));
  assert.ok(certificate.checkPrivateKey(createPrivateKey(readFileSync(vm.files.key))));
});

test('the command line: token by file, standard input and environment; exit codes; the configuration that was named is made', async () => {
  const vm = await machine('cli-1');
  const where = ['--state-dir', vm.stateDir, '--config', vm.configFile];
  const tokenFile = join(vm.stateDir, '../token');
  writeFileSync(tokenFile, `${vm.token}\n`);
  const joined = await runMain(['join', '--token-file', tokenFile, ...where, '-o', 'json']);
  assert.equal(joined.code, 0, joined.stderr);
  assert.deepEqual(Object.entries(JSON.parse(joined.stdout)).slice(0, 4), [
    ['apiVersion', 'mesh-agent/v1'],
    ['kind', 'Joined'],
    ['state', 'joined'],
    ['name', 'cli-1'],
  ]);
  assert.ok(existsSync(vm.configFile));
  const again = await runMain(['join', '--token-file', '-', ...where], { input: vm.token });
  assert.equal(again.code, 0, again.stderr);
  assert.match(again.stdout, /was joined before, with this token/);
  const { token } = await lab.token('cli-1');
  const present = await runMain(['join', ...where], { env: { MESH_AGENT_TOKEN: token } });
  assert.equal(present.code, 6, present.stderr);
  assert.match(present.stderr, /JOIN-PRESENT/);
  const away = await runMain(['join', ...where, '--force', '--hub', `https://${lab.address}:1`], {
    env: { MESH_AGENT_TOKEN: token },
  });
  assert.equal(away.code, 3, away.stderr);
  assert.equal((await runMain(['join', ...where])).code, 1);
  const wrong = await runMain(['join', ...where, '--token', `${token}x`]);
  assert.match(wrong.stderr, /JOIN-TOKEN\)/);
  assert.ok(!wrong.stderr.includes(token));
});

test('a configuration that stands against joining is told before the token is used', async () => {
  const vm = await machine('cli-2');
  writeFileSync(vm.configFile, 'kvstore: {config: /var/lib/cilium/etcd/config.yaml}\n');
  const { code, stderr } = await runMain([
    'join',
    '--token',
    vm.token,
    '--state-dir',
    vm.stateDir,
    '--config',
    vm.configFile,
  ]);
  assert.equal(code, 1);
  assert.match(stderr, /config\.yaml:1.*kvstore\.config is set \(JOIN-CONFIG\)/);
  assert.ok(await isOpen('cli-2'));
});

test('the token is not in the list of processes while the machine joins', async () => {
  const vm = await machine('cli-3');
  const silent = await listen(createTcpServer(() => {}));
  const main = join(import.meta.dirname, '../../src/main.ts');
  const args = [
    main,
    'join',
    '--hub',
    silent,
    '--token',
    vm.token,
    '--state-dir',
    vm.stateDir,
    '--config',
    vm.configFile,
  ];
  const child = spawn(process.execPath, ['--no-warnings', ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  try {
    await new Promise((resolve) => child.stderr.once('data', resolve));
    const shown = readFileSync(`/proc/${child.pid}/cmdline`, 'latin1');
    assert.ok(!shown.includes(vm.token.slice(0, 20)), shown);
  } finally {
    child.kill('SIGKILL');
    await until('it ended', () => child.signalCode !== null || child.exitCode !== null);
  }
});
