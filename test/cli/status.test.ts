import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { parse } from 'yaml';
import { type ApiServer, serveApi } from '../../src/api/server.ts';
import type { HealthRecord, StatusRecord } from '../../src/api/types.ts';
import { concernsOf } from '../../src/cli/concerns.ts';
import { briefText, statusText } from '../../src/cli/status-text.ts';
import { cluster, memoryAgent, NOW, status, store } from '../api/memory-agent.ts';
import { runMain, runShell } from './run-command.ts';

const folder = mkdtempSync(join(tmpdir(), 'mesh-status-'));
const socket = join(folder, 'agent.sock');
let server: ApiServer;
let scene: () => StatusRecord = status;

before(async () => {
  server = await serveApi({ api: memoryAgent({ status: () => scene() }), socket });
});
afterEach(() => {
  scene = status;
});
after(async () => {
  await server.close();
  rmSync(folder, { recursive: true, force: true });
});

const trouble: HealthRecord = {
  code: 'KVS-REFUSED',
  severity: 'error',
  subject: 'cluster/cluster-b',
  text: 'nothing listens at the store endpoint',
  place: 'https://b.example.com:2379',
  remedy: 'check that the clustermesh-apiserver or hub runs',
  since: NOW - 194_000,
};
const lost = cluster('cluster-b', {
  ready: false,
  connected: false,
  reason: 'Waiting for initial connection to be established',
  config: { required: true, retrieved: false, kvstoremesh: false, syncCanaries: false },
  freshAt: NOW - 754_000,
  store: store({ state: 'failed', summary: 'etcd: 0/1 connected' }),
});
const degraded = (): StatusRecord =>
  status({ state: 'degraded', clusters: [cluster('cluster-a', { kind: 'joined' }), lost], health: [trouble] });

const shown = (record: StatusRecord, over: object = {}): string =>
  statusText(record, { now: NOW, color: false, verbose: false, allClusters: false, ...over });

test("the ClusterMesh block is word for word Cilium's", () => {
  const text = shown(
    status({
      clusters: [
        cluster('vmfleet', {
          id: 77,
          numNodes: 3,
          numEndpoints: 3,
          numIdentities: 2,
          numServices: 1,
          config: { required: true, retrieved: true, clusterId: 77, kvstoremesh: true, syncCanaries: true },
          store: store({ reconnections: 1, lastFailure: { at: NOW - 194_000, code: 'KVS-LOST', message: '' } }),
        }),
        { ...lost, name: 'other', numNodes: 0, numEndpoints: 0, numIdentities: 0, numServices: 0 },
      ],
    }),
    { verbose: true },
  );
  const block = text.slice(text.indexOf('ClusterMesh:')).split('\n').slice(0, 9);
  assert.deepEqual(block, [
    'ClusterMesh:    1/2 remote clusters ready, 5 global-services',
    '   vmfleet: ready, 3 nodes, 3 endpoints, 2 identities, 1 services, 1 reconnections (last: 3m14s ago)',
    '   └  etcd: 1/1 connected, leases=1, lock leases=0, has-quorum=true: endpoint status checks are disabled, ID: c6ba18866da7dfd8',
    '   └  remote configuration: expected=true, retrieved=true, cluster-id=77, kvstoremesh=true, sync-canaries=true',
    '   └  synchronization status: nodes=true, endpoints=true, identities=true, services=true',
    '   other: not-ready, 0 nodes, 0 endpoints, 0 identities, 0 services, 0 reconnections (last: never)',
    '   └  Waiting for initial connection to be established',
    '   └  etcd: 0/1 connected',
    '   └  remote configuration: expected=unknown, retrieved=unknown',
  ]);
});

test('only a cluster that needs a look has all its lines, unless all are asked for', () => {
  const text = shown(degraded());
  assert.match(text, /cluster-a: ready, .*joined by this machine\n {3}cluster-b: not-ready/);
  assert.match(text, /facts: last confirmed 12m34s ago; they stay in force/);
  assert.match(shown(degraded(), { allClusters: true }), /cluster-a: ready, .*\n {3}└ {2}etcd/);
});

test('what is wrong stands first, with place, age and remedy', () => {
  const lines = shown(degraded()).split('\n');
  assert.equal(lines[0], 'DEGRADED  my-vm in cluster-a (id 1), identity 59102, 192.168.1.100');
  assert.equal(
    lines[2],
    '  ERROR    cluster/cluster-b: nothing listens at the store endpoint (KVS-REFUSED, for 3m14s)',
  );
  assert.equal(lines[3], '           place:  https://b.example.com:2379');
  assert.equal(lines[4], '           remedy: check that the clustermesh-apiserver or hub runs');
  assert(lines.findIndex((line) => line.startsWith('KVStore:')) > 4);
});

test('a state that is not fine always has a reason', () => {
  const waiting = status({
    state: 'not-joined',
    registration: {
      state: 'announced',
      since: NOW,
      waitingFor: 'the answer of the cluster',
      key: 'k',
      registrations: 0,
    },
  });
  assert.deepEqual(
    concernsOf(waiting).map(({ severity, subject, text }) => [severity, subject, text]),
    [['waiting', 'registration', 'the answer of the cluster']],
  );
  const base = status();
  const unapplied = { ...base, state: 'degraded' as const, datapath: { ...base.datapath, applied: false } };
  assert.equal(concernsOf(unapplied)[0]?.subject, 'datapath');
  const broken = {
    ...unapplied,
    datapath: { ...unapplied.datapath, error: { code: 'DPN-APPLY', message: 'no memory', since: NOW } },
  };
  assert.deepEqual([concernsOf(broken)[0]?.severity, concernsOf(broken)[0]?.text], ['error', 'no memory']);
  assert.equal(concernsOf({ ...degraded(), health: [] })[0]?.text, 'Waiting for initial connection to be established');
  assert.deepEqual(concernsOf(status()), []);
});

test('one line says it all to a script', () => {
  assert.equal(briefText(status()), 'OK\n');
  assert.equal(briefText(degraded()), 'degraded: cluster/cluster-b: nothing listens at the store endpoint\n');
  const two = { ...degraded(), health: [trouble, { ...trouble, subject: 'policy/x' }] };
  assert.match(briefText(two), /\(and 1 more\)\n$/);
});

test('colors are on a terminal only, and change nothing else', () => {
  const plain = shown(degraded(), { verbose: true });
  const colored = shown(degraded(), { verbose: true, color: true });
  assert.notEqual(colored, plain);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the escapes of colors
  assert.equal(colored.replace(/\x1b\[[0-9]+m/g, ''), plain);
});

test('hostile text in a status is shown, not obeyed', () => {
  const evil = '\x1b[2J\r\nOK';
  const text = shown(
    {
      ...degraded(),
      clusters: [{ ...lost, name: evil, reason: evil }],
      health: [{ ...trouble, text: evil, place: evil }],
      quarantine: [{ cluster: evil, key: evil, reason: evil, since: NOW }],
    },
    { verbose: true },
  );
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not be there
  assert.doesNotMatch(text, /[\x00-\x09\x0b-\x1f\x7f-\x9f]/);
  assert.doesNotMatch(text, /^OK/m);
});

test('the exit code tells fine, degraded, not joined and not reachable apart', async () => {
  const code = async (...args: string[]): Promise<number | null> => (await runMain(['status', ...args])).code;
  assert.equal(await code('--socket', socket), 0);
  scene = degraded;
  assert.equal(await code('--socket', socket), 4);
  assert.equal(await code('--socket', socket, '-o', 'json'), 4);
  scene = () => status({ state: 'not-joined' });
  assert.equal(await code('--socket', socket, '--brief'), 5);
  assert.equal(await code('--socket', join(folder, 'nowhere.sock')), 3);
});

test('a terminal gets colors, unless NO_COLOR says otherwise', async () => {
  const onTerminal = (before: string): Promise<{ stdout: string }> =>
    runShell(`script -qec "${before} $MESH_AGENT status --socket ${socket}" /dev/null`);
  assert((await onTerminal('env TERM=xterm')).stdout.startsWith('\x1b[32mOK\x1b[0m'));
  assert((await onTerminal('env TERM=xterm NO_COLOR=1')).stdout.startsWith('OK  my-vm'));
  assert((await onTerminal('env TERM=dumb')).stdout.startsWith('OK  my-vm'));
  assert((await runMain(['status', '--socket', socket])).stdout.startsWith('OK  my-vm'));
});

test('the socket may be named by option, variable or configuration', async () => {
  const file = join(folder, 'config.yaml');
  writeFileSync(file, `socket: ${socket}\n`);
  assert.equal((await runMain(['--socket', socket, 'status', '--brief'])).stdout, 'OK\n');
  assert.equal((await runMain(['status', '--brief'], { env: { MESH_AGENT_SOCKET: socket } })).stdout, 'OK\n');
  assert.equal((await runMain(['status', '--brief', '--config', file])).stdout, 'OK\n');
  assert.equal((await runMain(['status', '--brief', '--config', join(folder, 'none.yaml')])).code, 1);
});

test('JSON and YAML hold the record itself', async () => {
  const json = JSON.parse((await runMain(['status', '-o', 'json', '--socket', socket])).stdout) as StatusRecord;
  assert.deepEqual([json.apiVersion, json.kind, json.state], ['mesh-agent/v1', 'Status', 'ok']);
  const yaml = parse((await runMain(['status', '-o', 'yaml', '--socket', socket])).stdout) as StatusRecord;
  assert.deepEqual({ ...yaml, clusters: [] }, { ...json, clusters: [] });
});

test('waiting ends when all is fine, and says meanwhile for what it waits', async () => {
  let asked = 0;
  scene = () =>
    ++asked < 4
      ? status({
          state: 'not-joined',
          registration: { ...status().registration, state: 'announced', waitingFor: 'the answer' },
        })
      : status();
  const { code, stdout, stderr } = await runMain(['status', '--wait', '30', '--brief', '--socket', socket]);
  assert.deepEqual([code, stdout], [0, 'OK\n']);
  assert.match(stderr, /^waiting \(0s\): registration: the answer\n$/);
});

test('waiting ends after its time, with the exit code of what is so then', async () => {
  scene = degraded;
  assert.equal((await runMain(['status', '--wait', '1', '--brief', '--socket', socket])).code, 4);
  const away = await runMain(['status', '--wait', '1', '--socket', join(folder, 'nowhere.sock')]);
  assert.equal(away.code, 3);
  assert.match(away.stderr, /^waiting \(0s\): the agent does not answer/);
  assert.match(away.stderr, /API-UNREACHABLE\)\n {2}remedy: start it with/);
});
