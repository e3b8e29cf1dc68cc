import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { parse } from 'yaml';
import { type Ran, runMain } from './run-command.ts';

const folder = mkdtempSync(join(tmpdir(), 'mesh-cli-config-'));
const at = (name: string): string => join(folder, name);
after(() => rmSync(folder, { recursive: true, force: true }));

before(() => {
  for (const name of ['one', 'two']) {
    const args = [
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
      '-days',
      '90',
      '-subj',
      `/CN=${name}`,
    ];
    const result = spawnSync('openssl', [...args, '-keyout', `${name}.key`, '-out', `${name}.crt`], {
      cwd: folder,
      encoding: 'utf8',
    });
    assert.equal(result.status, 0, result.stderr);
  }
});

function withConfig(text: string, command: string, ...args: string[]): Promise<Ran> {
  writeFileSync(at('config.yaml'), text);
  return runMain(['config', command, '--config', at('config.yaml'), ...args]);
}

const tls = (key: string): string =>
  `name: vm\nkvstore:\n  endpoints: [https://hub:2379]\n  ca: ${at('two.crt')}\n  cert: ${at('one.crt')}\n  key: ${at(key)}\n`;

test('a configuration whose files fit is fine', async () => {
  const { code, stdout } = await withConfig(tls('one.key'), 'check');
  assert.equal(code, 0, stdout);
  assert.match(stdout, /^configuration is fine \(.*config\.yaml\)\n$/);
});

test('every problem is shown with its line; the exit code is 1', async () => {
  const { code, stdout } = await withConfig('nam: vm\nlog: {level: loud}\n', 'check');
  assert.equal(code, 1);
  assert.match(stdout, /^error: .*config\.yaml:1: unknown configuration key: nam; did you mean name\? \(CFG-KEY\)$/m);
  assert.match(stdout, /^error: .*config\.yaml:2: .*log\.level: "loud" is not one of/m);
  assert.match(stdout, /^2 problems$/m);
});

test('files that are named are looked into', async () => {
  const wrongKey = await withConfig(tls('two.key'), 'check', '-o', 'json');
  assert.equal(wrongKey.code, 1);
  const record = JSON.parse(wrongKey.stdout) as {
    kind: string;
    ok: boolean;
    problems: { code: string; place: string }[];
  };
  assert.deepEqual([record.kind, record.ok], ['ConfigCheck', false]);
  assert.deepEqual(
    record.problems.map(({ code, place }) => [code, place]),
    [['CFG-CERTIFICATE', at('two.key')]],
  );
  const missing = await withConfig(tls('none.key'), 'check');
  assert.match(missing.stdout, /none\.key: .*ENOENT.* \(CFG-FILE\)/);
});

test("Cilium's etcd configurations are looked into as well, also those of remote clusters", async () => {
  mkdirSync(at('clustermesh'));
  writeFileSync(at('clustermesh/cluster-b'), `endpoints:\n- https://b:2379\ntrusted-ca-file: ${at('none.crt')}\n`);
  writeFileSync(at('clustermesh/common-etcd-client.key'), 'not a configuration');
  writeFileSync(
    at('etcd.yaml'),
    `endpoints: [https://a:2379]\ncert-file: ${at('one.crt')}\nkey-file: ${at('two.key')}\n`,
  );
  const text = `name: vm\nkvstore: {config: ${at('etcd.yaml')}}\nclustermesh: ${at('clustermesh')}\n`;
  const { code, stdout } = await withConfig(text, 'check');
  assert.equal(code, 1);
  assert.match(stdout, /two\.key: .*does not belong/);
  assert.match(stdout, /none\.crt: /);
  assert.match(stdout, /2 problems/);
});

test('the effective configuration is shown with origins, and without secrets', async () => {
  const text =
    'name: vm\nkvstore: {endpoints: [https://hub:2379], username: u, password: hunter2}\nnamedPorts: {http: tcp/80}\n';
  const wide = await withConfig(text, 'show', '--log-level', 'debug', '-o', 'wide');
  assert.match(
    wide.stdout,
    /^kvstore\.password +\[redacted\] +.*config\.yaml:2 +restart +MESH_AGENT_KVSTORE_PASSWORD +- /m,
  );
  assert.match(wide.stdout, /^log\.level +debug +--log-level +yes +MESH_AGENT_LOG_LEVEL +--log-level/m);
  assert.match(wide.stdout, /^routing +tunnel +default/m);
  const { stdout } = await withConfig(text, 'show', '-o', 'yaml');
  const record = parse(stdout) as {
    kind: string;
    config: { kvstore: object; namedPorts: object };
    origins: Record<string, string>;
  };
  assert.equal(record.kind, 'Config');
  assert.deepEqual(record.config.namedPorts, { http: 'tcp/80' });
  assert.match(record.origins.name ?? '', /config\.yaml:1$/);
  for (const each of [wide.stdout, stdout]) assert.doesNotMatch(each, /hunter2/);
});

test('a password that everyone may read is warned about', async () => {
  const text = 'name: vm\nkvstore: {endpoints: [https://hub:2379], username: u, password: hunter2}\n';
  const { code, stdout } = await withConfig(text, 'check');
  assert.equal(code, 0);
  assert.match(stdout, /^warning: .*config\.yaml: .*read the password \(CFG-EXPOSED\)$/m);
  chmodSync(at('config.yaml'), 0o640);
  assert.doesNotMatch((await withConfig(text, 'check')).stdout, /warning/);
  chmodSync(at('config.yaml'), 0o644);
});

test('what is shown is a configuration again', async () => {
  const first = await withConfig(
    'name: vm\nfailsafe: {ingress: [udp/53], egress: []}\ndevices: [eth0]\n',
    'show',
    '-o',
    'json',
  );
  const { config } = JSON.parse(first.stdout) as { config: object };
  const second = await withConfig(JSON.stringify(config), 'show', '-o', 'json');
  assert.equal(second.code, 0, second.stderr);
  assert.deepEqual((JSON.parse(second.stdout) as { config: object }).config, config);
});

test('the agent does not start with a wrong configuration, and says all that is wrong', async () => {
  writeFileSync(at('config.yaml'), 'nam: vm\nlog: {level: loud}\n');
  const { code, stderr } = await runMain(['run', '--config', at('config.yaml')]);
  assert.equal(code, 1);
  assert.match(stderr, /config\.yaml:1[\s\S]*config\.yaml:2/);
});

test('an unknown variable is a warning that keeps nobody from working', async () => {
  writeFileSync(at('config.yaml'), 'name: vm\n');
  const { code, stdout } = await runMain(['config', 'check', '--config', at('config.yaml')], {
    env: { MESH_AGENT_NAM: 'x' },
  });
  assert.equal(code, 0);
  assert.match(stdout, /^warning: environment: .*MESH_AGENT_NAM; did you mean MESH_AGENT_NAME\?/m);
});
