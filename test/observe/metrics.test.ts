import assert from 'node:assert/strict';
import { once } from 'node:events';
import { get } from 'node:http';
import { connect, type Socket } from 'node:net';
import { after, afterEach, test } from 'node:test';
import { exportStatus } from '../../src/api/status-metrics.ts';
import type { StatusRecord } from '../../src/api/types.ts';
import { MeshError } from '../../src/core/errors.ts';
import { type Metrics, openMetrics } from '../../src/observe/metrics.ts';
import { type MetricsServer, serveMetrics } from '../../src/observe/metrics-server.ts';
import { cluster, NOW, status, store } from '../api/memory-agent.ts';
import { until } from '../lab/namespace.ts';

const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});
const sockets: Socket[] = [];
after(() => {
  for (const socket of sockets) socket.destroy();
});

function open(): Metrics {
  const metrics = openMetrics({ version: '1.2.3', commit: 'abc' });
  closers.push(() => metrics.close());
  return metrics;
}

interface Health {
  live?: string;
  ready?: string;
}

async function serve(metrics: Metrics, health: Health = {}, listen = '127.0.0.1:0'): Promise<MetricsServer> {
  const server = await serveMetrics({ listen, metrics, live: () => health.live, ready: () => health.ready });
  closers.push(() => server.close());
  return server;
}

async function fetchText(url: string): Promise<{ status: number; text: string; type: string }> {
  const [response] = (await once(get(url, { agent: false }), 'response')) as [import('node:http').IncomingMessage];
  let text = '';
  for await (const chunk of response) text += String(chunk);
  return { status: response.statusCode ?? 0, text, type: response.headers['content-type'] ?? '' };
}

/** The samples of a scrape, by name with labels. */
async function samples(metrics: Metrics): Promise<Map<string, number>> {
  const lines = (await metrics.render()).split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map((line) => {
      const at = line.lastIndexOf(' ');
      return [line.slice(0, at), Number(line.slice(at + 1))];
    }),
  );
}

test("the status appears under Cilium's names, so that its dashboards work", async () => {
  const metrics = open();
  const failed = store({ failures: 3, lastFailure: { at: NOW, code: 'KVS-LOST', message: 'x' } });
  exportStatus(metrics, () =>
    status({
      clusters: [cluster('cluster-a', { kind: 'joined' }), cluster('cluster-b', { ready: false, store: failed })],
    }),
  );
  const seen = await samples(metrics);
  const source = 'source_cluster="cluster-a",source_node_name="my-vm"';
  const expected: readonly (readonly [string, number])[] = [
    [`cilium_clustermesh_remote_clusters{${source}}`, 1],
    [`cilium_clustermesh_remote_cluster_readiness_status{${source},target_cluster="cluster-a"}`, 1],
    [`cilium_clustermesh_remote_cluster_readiness_status{${source},target_cluster="cluster-b"}`, 0],
    [`cilium_clustermesh_remote_cluster_failures{${source},target_cluster="cluster-b"}`, 3],
    [`cilium_clustermesh_remote_cluster_last_failure_ts{${source},target_cluster="cluster-b"}`, NOW / 1000],
    [`cilium_clustermesh_remote_cluster_nodes{${source},target_cluster="cluster-b"}`, 3],
    ['cilium_kvstore_initial_sync_completed{scope="ip/v1",source_cluster="cluster-b",action="read"}', 1],
    ['cilium_clustermesh_global_services', 5],
    ['cilium_identity{type="cluster_local"}', 24],
    ['cilium_policy', 2],
    ['cilium_policy_max_revision', 7],
    ['cilium_policy_endpoint_enforcement_status{enforcement="ingress"}', 1],
    ['cilium_endpoint_state{state="ready"}', 1],
    ['cilium_ip_addresses{family="ipv4"}', 1],
    ['cilium_drop_count_total{reason="Policy denied",direction="INGRESS"}', 12],
    [`cilium_version{version="1.2.3",revision="abc",arch="${process.arch}"}`, 1],
    ['mesh_agent_facts{kind="ipcache"}', 61],
    ['mesh_agent_kernel_entries{kind="addresses"}', 60],
    ['mesh_agent_state{state="ok"}', 1],
    ['mesh_agent_state{state="degraded"}', 0],
  ];
  for (const [name, value] of expected) assert.equal(seen.get(name), value, name);
  for (const name of ['process_resident_memory_bytes', 'process_cpu_seconds_total'])
    assert((seen.get(name) ?? 0) > 0, name);
  assert(seen.has('mesh_agent_event_loop_delay_seconds{quantile="0.99"}'));
});

test('a cluster and a problem that are gone are gone from the metrics', async () => {
  const metrics = open();
  let record: StatusRecord = status({
    state: 'degraded',
    health: [{ code: 'KVS-LOST', severity: 'error', subject: 'cluster/cluster-b', text: '', remedy: '', since: NOW }],
  });
  exportStatus(metrics, () => record);
  const names = async (): Promise<string> => [...(await samples(metrics)).keys()].join('\n');
  const before = await names();
  assert.match(before, /target_cluster="cluster-b"/);
  assert.match(before, /mesh_agent_health_problems\{code="KVS-LOST",severity="error"\}/);
  record = status({ clusters: [] });
  const then = await names();
  assert.doesNotMatch(then, /target_cluster/);
  assert.doesNotMatch(then, /KVS-LOST/);
});

test('backends of services are counted by state, and the lost clusters behind that', async () => {
  const metrics = open();
  const services = {
    frontends: 7,
    backends: { active: 5, standby: 1, terminating: 0, 'not-ready': 0, unhealthy: 3, unreachable: 2, refused: 0 },
    withoutBackend: 1,
    lostClusters: ['cluster-b'],
    problems: 3,
  };
  let record: StatusRecord = { ...status(), services };
  exportStatus(metrics, () => record);
  const seen = await samples(metrics);
  assert.equal(seen.get('mesh_agent_service_backends{state="unreachable"}'), 2);
  assert.equal(seen.get('mesh_agent_services_lost_clusters'), 1);
  assert.equal(seen.get('mesh_agent_services_without_backend'), 1);
  record = status();
  assert.equal((await samples(metrics)).get('mesh_agent_service_frontends'), 0);
});

test('a counter never goes back when the kernel starts to count anew', async () => {
  const metrics = open();
  let packets = 100;
  exportStatus(metrics, () => {
    const record = status();
    return {
      ...record,
      datapath: {
        ...record.datapath,
        drops: [{ reason: 133, text: 'Policy denied', direction: 'ingress', packets, bytes: packets * 60 }],
      },
    };
  });
  const name = 'cilium_drop_count_total{reason="Policy denied",direction="INGRESS"}';
  const read = async (value: number): Promise<number | undefined> => {
    packets = value;
    return (await samples(metrics)).get(name);
  };
  assert.equal(await read(100), 100);
  assert.equal(await read(130), 130);
  assert.equal(await read(5), 135);
  assert.equal(await read(5), 135);
  assert.equal(await read(7), 137);
});

test('what the agent does is counted', async () => {
  const metrics = open();
  metrics.applied({ delayMs: 30, tookMs: 20, added: 5, removed: 2, cut: 1 });
  metrics.applyFailed('DPN-APPLY');
  metrics.logged('warn', 'mesh');
  metrics.bootstrapped('overall', 1.5, 'success');
  const seen = await samples(metrics);
  assert.equal(seen.get('mesh_agent_reconcile_delay_seconds_bucket{le="0.025"}'), 0);
  assert.equal(seen.get('mesh_agent_reconcile_delay_seconds_bucket{le="0.05"}'), 1);
  assert.equal(seen.get('mesh_agent_kernel_changes_total{operation="add"}'), 5);
  assert.equal(seen.get('mesh_agent_applies_total{outcome="DPN-APPLY"}'), 1);
  assert.equal(seen.get('cilium_errors_warnings_total{level="warning",subsystem="mesh"}'), 1);
  assert.equal(seen.get('cilium_agent_bootstrap_seconds{scope="overall",outcome="success"}'), 1.5);
});

test('health and readiness are answered with a reason', async () => {
  const health: Health = {};
  const { url } = await serve(open(), health);
  assert.deepEqual(await fetchText(`${url}/healthz`), { status: 200, text: 'ok\n', type: 'text/plain; charset=utf-8' });
  assert.equal((await fetchText(`${url}/readyz`)).status, 200);
  health.ready = 'waits for the registration';
  assert.deepEqual((await fetchText(`${url}/readyz`)).text, 'waits for the registration\n');
  assert.equal((await fetchText(`${url}/readyz`)).status, 503);
  assert.equal((await fetchText(`${url}/healthz`)).status, 200);
  const scrape = await fetchText(`${url}/metrics`);
  assert.match(scrape.type, /^text\/plain; version=0\.0\.4/);
  assert.match(scrape.text, /^cilium_version/m);
  assert.equal((await fetchText(`${url}/etc/passwd`)).status, 404);
});

test('many silent clients do not stop a scrape', async () => {
  const { url } = await serve(open());
  const { port } = new URL(url);
  const silent = Array.from({ length: 200 }, () => {
    const socket = connect(Number(port), '127.0.0.1');
    socket.on('error', () => undefined);
    sockets.push(socket);
    return socket;
  });
  await until('most are refused', () => silent.filter((each) => each.closed).length >= 100);
  for (const each of silent) each.destroy();
  await until('a scrape succeeds', () =>
    fetchText(`${url}/metrics`).then(
      ({ status }) => status === 200,
      () => false,
    ),
  );
});

test('an address that is taken, or not ours, is an error that names it', async () => {
  const { url } = await serve(open());
  const listen = new URL(url).host;
  const named = (error: unknown): boolean =>
    error instanceof MeshError && error.code === 'OBS-LISTEN' && error.place !== undefined;
  await assert.rejects(serve(open(), {}, listen), named);
  await assert.rejects(serve(open(), {}, '192.0.2.1:9964'), named);
});

test('IPv6 is listened on where it is asked for', async () => {
  const { url } = await serve(open(), {}, '[::1]:0');
  assert.match(url, /^http:\/\/\[::1\]:[0-9]+$/);
  assert.equal((await fetchText(`${url}/healthz`)).status, 200);
});
