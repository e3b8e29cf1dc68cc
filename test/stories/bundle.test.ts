import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { execute, PROGRAM } from '../lab/daemon.ts';
import type { MeshLab } from '../lab/mesh-lab.ts';
import { host } from '../lab/namespace.ts';
import { CLUSTER_A, CLUSTER_B, CROSS_CLUSTER, enforce, policyFor, startStory } from '../lab/story.ts';

/** Secrets of every kind are planted wherever the program may come across them; the archive is searched for each. */
const folder = mkdtempSync(join(tmpdir(), 'mesh-bundle-'));
const planted = new Map<string, string>();
const secret = (where: string): string => {
  const made = `s3cr3t${randomBytes(12).toString('hex')}`;
  planted.set(where, made);
  return made;
};
const logFile = join(folder, 'agent.log');
let lab: MeshLab;

before(async () => {
  lab = await startStory([CLUSTER_A, CLUSTER_B], { config: { log: { file: logFile, level: 'debug' } } });
  await enforce(lab, CROSS_CLUSTER);
});
after(async () => {
  await lab?.close();
  rmSync(folder, { recursive: true, force: true });
});

interface Unpacked {
  readonly file: string;
  readonly texts: ReadonlyMap<string, string>;
}

let count = 0;
function unpack(file: string): Unpacked {
  const into = join(folder, `unpacked-${count++}`);
  mkdirSync(into);
  execFileSync('tar', ['-xzf', file, '-C', into]);
  const names = readdirSync(into, { recursive: true, encoding: 'utf8' }).filter((name) =>
    statSync(join(into, name)).isFile(),
  );
  const texts = new Map(
    names.map((name) => [name.slice(name.indexOf('/') + 1), readFileSync(join(into, name), 'utf8')] as const),
  );
  return { file, texts };
}

function assertNoSecret({ texts }: Unpacked): void {
  assert.ok(planted.size > 0);
  for (const [where, value] of planted)
    for (const form of [value, Buffer.from(value).toString('base64').slice(0, 24), encodeURIComponent(value)])
      for (const [name, text] of texts) assert.ok(!text.includes(form), `the secret of ${where} is in ${name}`);
}

/** Every line of a key by itself. */
function plantKey(where: string, file: string): void {
  const lines = readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line.length > 20 && !line.startsWith('-----'));
  assert.ok(lines.length > 0);
  for (const [index, line] of lines.entries()) planted.set(`${where}, line ${index + 1}`, line);
}

test('the bundle of a running machine has what is needed, and no secret', async () => {
  plantKey('the private key that the agent uses', lab.credentials.key);
  const key = readFileSync(lab.credentials.key, 'utf8');
  mkdirSync(join(lab.agent.stateDir, 'pki'), { recursive: true });
  writeFileSync(join(lab.agent.stateDir, 'pki', 'agent.key'), key, { mode: 0o600 });
  lab.agent.cluster(
    'cluster-c',
    `endpoints:\n- http://admin:${secret('user information of an endpoint')}@192.0.2.1:2379\nusername: admin\npassword: ${secret('an etcd configuration')}\n`,
  );
  const headers = [`X-Anything ${secret('a header of a policy')}`];
  const http = [{ method: 'GET', headers, headerMatches: [{ name: 'X-Key', value: secret('a header match') }] }];
  lab.agent.policy(
    'l7.yaml',
    policyFor('l7', { ingress: [{ toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }], rules: { http } }] }] }),
  );
  lab.agent.policy('bad.yaml', `password: ${secret('a policy that cannot be read')}\nkind: [\n`);
  appendFileSync(
    logFile,
    [
      `{"level":"info","msg":"login","password":"${secret('a field of the log')}"}`,
      `{"level":"info","msg":"asked with Authorization: Bearer ${secret('a header in the log')}"}`,
      `joined with mat1_${secret('a join token in the log')}`,
      `connecting to https://root:${secret('an address in the log')}@store:2379`,
      JSON.stringify({ level: 'error', msg: key }),
      key,
      `kubeconfig: client-key-data: ${Buffer.from(key).toString('base64')}`,
      '',
    ].join('\n'),
  );
  const file = join(folder, 'running.tar.gz');
  const { code, stdout, stderr } = await lab.agent.runThere('bundle', '--file', file);
  assert.equal(code, 0, stderr);
  assert.equal(stdout, `${file}\n`);
  assert.equal(statSync(file).mode & 0o777, 0o600);
  const unpacked = unpack(file);
  assertNoSecret(unpacked);
  const { texts } = unpacked;
  const text = (name: string): string => texts.get(name) ?? assert.fail(`there is no ${name}`);
  assert.equal((JSON.parse(text('status.json')) as { kind: string }).kind, 'Status');
  assert.equal((JSON.parse(text('doctor.json')) as { kind: string }).kind, 'Doctor');
  assert.match(text('log.txt'), /mesh-agent starts/);
  assert.match(text('metrics.txt'), /mesh_agent_build_info|mesh_agent_/);
  const rules = text('kernel/table.nft');
  assert.match(rules, /^table inet mesh_agent \{\n[\s\S]*chain enter \{[\s\S]*\n\}\n$/m);
  assert.doesNotMatch(rules, /elements = \{|table inet (?!mesh_agent )/);
  assert.match(text('kernel/links.txt'), /mesh_vxlan/);
  assert.match(text('ipcache.ndjson'), /10\.244\.1\.5\/32/);
  assert.match(text('policies.ndjson'), /allow-cross-cluster/);
  assert.match(text('certificates.json'), /CN=cluster-a-ca/);
  assert.match(text('stores.json'), /192\.168\.100\.21/);
});

test('without an agent, and with secrets in configuration and environment, there is a bundle, and no secret', async () => {
  const place = mkdtempSync(join(folder, 'down-'));
  const config = join(place, 'config.yaml');
  mkdirSync(join(place, 'conf.d'));
  writeFileSync(
    config,
    `name: down\nkvstore:\n  endpoints: ["https://192.0.2.7:2379"]\n  username: u\n  password: ${secret('the configuration')}\n`,
  );
  writeFileSync(join(place, 'conf.d', 'more.yaml'), `kvstore:\n  password: ${secret('conf.d')}\n`);
  const file = join(place, 'down.tar.gz');
  const [command, ...program] = PROGRAM;
  const where = ['--config', config, '--state-dir', join(place, 'state'), '--socket', join(place, 'agent.sock')];
  const variable = `MESH_AGENT_KVSTORE_PASSWORD=${secret('the environment')}`;
  const net = `--net=/run/netns/${lab.machine.namespace.name}`;
  const args = [net, 'env', variable, command, ...program, 'bundle', '--file', file, ...where];
  const { code, stderr } = await execute('nsenter', args);
  assert.equal(code, 0, stderr);
  const unpacked = unpack(file);
  assertNoSecret(unpacked);
  assert.match(unpacked.texts.get('doctor.txt') ?? '', /API-UNREACHABLE/);
  assert.match(unpacked.texts.get('config.json') ?? '', /\[redacted\]/);
  assert.match(unpacked.texts.get('status.json') ?? '', /does not run/);
});

test('the size limit is kept, and the archive says what was cut', async () => {
  // A log that cannot be compressed.
  writeFileSync(logFile, randomBytes(5 << 20).toString('base64'));
  const file = join(folder, 'limit.tar.gz');
  const { code, stderr } = await lab.agent.runThere('bundle', '--file', file, '--size-limit', '1');
  assert.equal(code, 0, stderr);
  assert.ok(statSync(file).size <= 1 << 20, `${statSync(file).size}`);
  const { texts } = unpack(file);
  assert.match(texts.get('log.txt') ?? '', /\[cut: there is more than fits\]/);
});

test('an archive that cannot be written is an error, and leaves nothing behind', async () => {
  const full = mkdtempSync(join(folder, 'full-'));
  host('mount', '-t', 'tmpfs', '-o', 'size=4k', 'tmpfs', full);
  try {
    const { code, stderr } = await lab.agent.runThere('bundle', '--file', join(full, 'b.tar.gz'));
    assert.equal(code, 1);
    assert.match(stderr, /ENOSPC|no space/);
    assert.deepEqual(readdirSync(full), []);
  } finally {
    host('umount', full);
  }
});
