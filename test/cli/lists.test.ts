import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { parse } from 'yaml';
import { type ApiServer, serveApi } from '../../src/api/server.ts';
import { identities, manyAddresses, memoryAgent } from '../api/memory-agent.ts';
import { runMain, runShell } from './run-command.ts';

const folder = mkdtempSync(join(tmpdir(), 'mesh-lists-'));
const socket = join(folder, 'agent.sock');
const crowded = join(folder, 'crowded.sock');
const hostile = join(folder, 'hostile.sock');
const EVIL = 'k8s:app=\x1b[31mred\x1b[0m\nk8s:forged=1\u202e\u009b2J\ud800';
let servers: ApiServer[] = [];

before(async () => {
  servers = [
    await serveApi({ api: memoryAgent(), socket }),
    await serveApi({ api: memoryAgent({ ipcache: () => manyAddresses(200_000) }), socket: crowded }),
    await serveApi({
      api: memoryAgent({
        identities: () => [{ id: 70_000, cluster: 'b\x1b]0;x\x07', labels: [EVIL], addresses: 1 }],
        kernelIpcache: () =>
          Promise.resolve([{ prefix: '10.0.0.1/32', identity: 7, labels: [EVIL], tunnelEndpoint: '\r\n0.0.0.0' }]),
      }),
      socket: hostile,
    }),
  ];
});
after(async () => {
  await Promise.all(servers.map((each) => each.close()));
  rmSync(folder, { recursive: true, force: true });
});

async function lines(...args: string[]): Promise<string[]> {
  const { code, stdout, stderr } = await runMain([...args, '--socket', socket]);
  assert.equal(code, 0, stderr);
  return stdout.trimEnd().split('\n');
}

test("tables have Cilium's headings, one label a line, and aligned columns", async () => {
  assert.deepEqual(await lines('identity', 'list'), [
    'ID       LABELS',
    '1        reserved:host',
    '59102    k8s:app=legacy-app',
    '         k8s:io.cilium.k8s.policy.cluster=cluster-a',
    '131500   k8s:app=frontend',
    '         k8s:io.cilium.k8s.policy.cluster=cluster-b',
    '         k8s:io.kubernetes.pod.namespace=production',
  ]);
  const [first = '', second = ''] = await lines('endpoint', 'list');
  assert.match(
    first,
    /^ENDPOINT {3}POLICY \(ingress\) {3}POLICY \(egress\) {3}IDENTITY {3}LABELS \(source:key\[=value\]\) +IPv6 {3}IPv4 +STATUS$/,
  );
  assert.match(second, /^ {11}ENFORCEMENT {8}ENFORCEMENT$/);
  const nodes = await lines('node', 'list');
  assert.match(nodes[0] ?? '', /^Name +IPv4 Address +Endpoint CIDR +IPv6 Address +Endpoint CIDR +Source$/);
  assert.match(nodes[2] ?? '', /^cluster-b\/node-1 +10\.0\.0\.21 +10\.245\.1\.0\/24 +clustermesh$/);
  const services = await lines('service', 'list');
  assert.match(services[0] ?? '', /^ID +Frontend +Service Type +Backend/);
  assert.match(
    services[1] ?? '',
    /^1 +10\.96\.3\.7:80\/TCP +ClusterIP +1 => 10\.245\.1\.5:8080\/TCP \(active\) +production\/api-service/,
  );
  assert.match(services[2] ?? '', /^ +2 => 10\.245\.1\.6:8080\/TCP \(active\)$/);
  const kernel = await lines('bpf', 'ipcache', 'list');
  assert.match(kernel[0] ?? '', /^IP PREFIX\/ADDRESS +IDENTITY/);
  assert.match(
    kernel[2] ?? '',
    /^10\.245\.1\.5\/32 +identity=131500 encryptkey=0 tunnelendpoint=10\.0\.0\.21, flags=<none>/,
  );
  const balanced = await lines('bpf', 'lb', 'list');
  assert.match(balanced[0] ?? '', /^SERVICE ADDRESS +BACKEND ADDRESS \(REVNAT_ID\) \(SLOT\) +SERVICE$/);
  assert.match(balanced[1] ?? '', /^10\.96\.3\.7:80\/TCP \(0\) +0\.0\.0\.0:0 \(1\) \(0\) \[ClusterIP, non-routable\]/);
  assert.match(
    balanced[2] ?? '',
    /^10\.96\.3\.7:80\/TCP \(1\) +10\.245\.1\.5:8080\/TCP \(1\) \(1\) +production\/api-service global$/,
  );
  // One without backends, and without an owner.
  assert.match(balanced[4] ?? '', /^10\.96\.3\.8:53\/UDP \(0\) +0\.0\.0\.0:0 \(2\) \(0\)/);
  const rows = await lines('bpf', 'policy', 'list');
  assert.match(rows[0] ?? '', /^POLICY +DIRECTION +IDENTITY +PORT\/PROTO +PROXY PORT +AUTH TYPE +BYTES +PACKETS$/);
  assert.match(rows.join('\n'), /^Allow +Ingress +131500 +8080\/TCP +NONE +disabled +600 +10$/m);
  assert.match(rows.join('\n'), /^Deny +Ingress +all others +ANY +NONE +disabled +180 +3$/m);
});

test('the commands that operators know from Cilium find what they look for', async () => {
  const agent = `$MESH_AGENT --socket ${socket}`;
  const found = async (line: string): Promise<string> => (await runShell(line)).stdout;
  assert.match(await found(`${agent} identity list | grep "cluster-b"`), /policy\.cluster=cluster-b/);
  assert.match(await found(`${agent} bpf ipcache list | grep "cluster-b"`), /^10\.245\.1\.5\/32 +identity=131500/);
  assert.match(
    await found(`${agent} status --verbose | grep -A 10 "ClusterMesh"`),
    /1\/1 remote clusters ready[\s\S]*cluster-b: ready, 3 nodes/,
  );
  const nodes = (await found(`${agent} endpoint list --selector "reserved:remote-node"`)).split('\n');
  assert.match(nodes[2] ?? '', /^- +Disabled +Disabled +6 +reserved:remote-node/);
});

test('filters narrow a list', async () => {
  assert.equal((await lines('identity', 'list', '--cluster', 'cluster-b')).length, 4);
  assert.equal((await lines('identity', 'list', '--selector', 'k8s:app=frontend')).length, 4);
  assert.equal((await lines('node', 'list', '--source', 'local')).length, 2);
  assert.equal((await lines('ipcache', 'list', '--source', 'clustermesh')).length, 2);
  assert.equal((await lines('ip', 'list', '--cluster', 'cluster-a')).length, 2);
  assert.equal((await lines('bpf', 'ipcache', 'list', '--selector', 'app=frontend')).length, 2);
  assert.equal((await lines('bpf', 'policy', 'list', '--direction', 'egress')).length, 1);
  assert.equal((await lines('service', 'list', '--cluster', 'none')).length, 1);
  assert.equal((await lines('endpoint', 'list', '--all')).filter((line) => /ready$/.test(line)).length, 2);
});

test('every list is whole, and of the same content, as JSON and as YAML', async () => {
  for (const [kind, ...args] of [
    ['EndpointList', 'endpoint', 'list'],
    ['IdentityList', 'identity', 'list'],
    ['NodeList', 'node', 'list'],
    ['ServiceList', 'service', 'list'],
    ['KernelServiceList', 'bpf', 'lb', 'list'],
    ['IpcacheList', 'ipcache', 'list'],
    ['PolicyList', 'policy', 'list'],
    ['PolicyList', 'policy', 'get'],
    ['KernelAddressList', 'bpf', 'ipcache', 'list'],
    ['KernelPolicyList', 'bpf', 'policy', 'list'],
    ['IdentityList', 'identity', 'list', '--cluster', 'none'],
  ]) {
    const json = JSON.parse((await lines(...args, '-o', 'json')).join('\n')) as {
      apiVersion: string;
      kind: string;
      items: object[];
    };
    assert.equal(json.apiVersion, 'mesh-agent/v1');
    assert.equal(json.kind, kind);
    assert.deepEqual(parse((await lines(...args, '-o', 'yaml')).join('\n')), json);
  }
  const json = JSON.parse((await lines('identity', 'list', '-o', 'json')).join('\n')) as { items: object[] };
  assert.deepEqual(json.items, identities);
});

test('one object is shown in every form', async () => {
  assert.match((await lines('identity', 'get', '59102')).join('\n'), /^59102 +k8s:app=legacy-app$/m);
  assert.match(
    (await lines('ipcache', 'get', '10.245.1.5')).join('\n'),
    /^10\.245\.1\.5\/32 +131500 +clustermesh +cluster-b .*10\.0\.0\.21 +cluster-a kvstore identity=59102$/m,
  );
  const entry = parse((await lines('ipcache', 'get', '10.245.1.5', '-o', 'yaml')).join('\n')) as {
    kind: string;
    identity: number;
  };
  assert.deepEqual([entry.kind, entry.identity], ['IpcacheEntry', 131_500]);
  assert.match((await lines('service', 'get', 'production/api-service')).join('\n'), /10\.96\.3\.7:80/);
  const rules = await lines('policy', 'get', 'CiliumNetworkPolicy/production/web');
  assert.deepEqual(JSON.parse(rules.join('\n')), [{ endpointSelector: { matchLabels: { 'any:app': 'web' } } }]);
  assert.equal((await lines('policy', 'get')).at(-1), 'Revision: 7');
  const list = await lines('policy', 'list');
  assert.match(list[1] ?? '', /production\/broken .*invalid .*broken\.yaml:7/);
});

test('what is not there is an error with a remedy', async () => {
  for (const args of [
    ['identity', 'get', '4711'],
    ['ipcache', 'get', '1.2.3.4'],
    ['policy', 'get', 'nothing'],
    ['service', 'get', 'nothing'],
  ]) {
    const { code, stdout, stderr } = await runMain([...args, '--socket', socket]);
    assert.deepEqual([code, stdout], [1, ''], args.join(' '));
    assert.match(stderr, /API-NOT-FOUND\)\n {2}remedy: /);
  }
});

test('hostile text of a store cannot move the cursor or forge a line, in any form', async () => {
  for (const args of [
    ['identity', 'list'],
    ['bpf', 'ipcache', 'list'],
  ]) {
    for (const format of ['table', 'wide', 'json', 'yaml']) {
      const { code, stdout } = await runMain([...args, '-o', format, '--socket', hostile]);
      assert.equal(code, 0);
      // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not be there
      assert.doesNotMatch(stdout, /[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]/, `${args.join(' ')} ${format}`);
      assert.doesNotMatch(stdout, /^ *k8s:forged/m);
    }
  }
  const { stdout } = await runMain(['identity', 'list', '-o', 'json', '--socket', hostile]);
  const { items } = JSON.parse(stdout) as { items: { labels: string[] }[] };
  assert.equal(items[0]?.labels[0], EVIL);
  const yaml = await runMain(['identity', 'list', '-o', 'yaml', '--socket', hostile]);
  const read = parse(yaml.stdout) as { items: { labels: string[] }[] };
  assert.equal(read.items[0]?.labels[0]?.slice(0, -1), EVIL.slice(0, -1));
});

test('a reader that leaves early is no fault', async () => {
  for (const format of ['table', 'json']) {
    const { code, stdout, stderr } = await runShell(
      `$MESH_AGENT ipcache list -o ${format} --socket ${crowded} | head -1`,
    );
    assert.deepEqual([code, stderr, stdout.split('\n').length], [0, '', 2], format);
  }
});

test('a list that is longer than what is measured stays whole', async () => {
  const { stdout } = await runShell(`$MESH_AGENT ipcache list --socket ${crowded} | wc -l`);
  assert.equal(Number(stdout), 200_001);
});
