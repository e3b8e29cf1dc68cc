import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { identityBlock } from '../src/core/identity.ts';
import { parsePrefix } from '../src/core/ip.ts';
import { type ClusterDocument, encodeClusterDocument } from '../src/hub/clusters/cluster-document.ts';
import { openAdmission } from '../src/hub/mesh/admission.ts';
import { OwnedAddresses } from '../src/hub/mesh/owned-addresses.ts';
import { PrefixIndex } from '../src/hub/workloads/prefix-index.ts';
import { openStore } from '../src/kvstore/session.ts';
import { bulkAddress, bulkHost, bulkIdentity, publishMany } from '../test/lab/bulk.ts';
import { StandInCluster } from '../test/lab/cluster.ts';
import { Etcd } from '../test/lab/etcd.ts';
import { until } from '../test/lab/namespace.ts';
import { addressValue } from '../test/lab/values.ts';
import type { CopyFigures } from './kvstoremesh-hub.ts';
import type { Row } from './row.ts';

const CLUSTERS = 20;
const ADDRESSES = 250_000;
const CHANGES = 500;
const QUOTA = ['--quota-backend-bytes', String(4 * 2 ** 30)];

/** Many clusters with many addresses, copied into the store of a hub; etcds and hub share the machine. */
export async function run(): Promise<Row[]> {
  const rows = [...admitting()];
  const [source, own] = [await Etcd.start({ flags: QUOTA }), await Etcd.start({ flags: QUOTA })];
  const clusters: StandInCluster[] = [];
  try {
    // One etcd carries them all, as that of another hub would: twenty would measure the twenty.
    for (let index = 0; index < CLUSTERS; index++) clusters.push(await publish(source, index));
    await connect(own, source, clusters);
    rows.push(...(await copying(own, clusters)));
  } finally {
    await Promise.all(clusters.map((cluster) => cluster.close()));
    await source.close();
    await own.close();
  }
  return rows;
}

async function publish(source: Etcd, index: number): Promise<StandInCluster> {
  const etcd = { endpoints: source.endpoints };
  const heartbeatMs = index === 0 ? 10_000 : 0;
  const cluster = new StandInCluster({ name: `c${index}`, id: index + 1, etcd, layout: 'cached', heartbeatMs });
  const addresses = ADDRESSES / CLUSTERS;
  await publishMany(cluster.store, { cluster: cluster.name, id: cluster.id, layout: 'cached', addresses });
  await cluster.publish();
  return cluster;
}

async function connect(own: Etcd, source: Etcd, clusters: readonly StandInCluster[]): Promise<void> {
  const store = openStore({ etcd: async () => ({ endpoints: own.endpoints }) });
  for (const [index, { name }] of clusters.entries()) {
    const times = { connectedAt: index + 1, changedAt: index + 1 };
    const document: ClusterDocument = { name, endpoints: source.endpoints, ...times };
    await store.put(`mesh-agent/v1/clusters/${name}`, encodeClusterDocument(document));
  }
  await store.close();
}

async function copying(own: Etcd, clusters: readonly StandInCluster[]): Promise<Row[]> {
  const first = await hub(own);
  const { seconds, peakMegabytes, cpuSeconds, longestStep } = first.figures;
  const delay = await latency(own, clusters);
  await first.end();
  const second = await hub(own);
  await second.end();
  const what = `${CLUSTERS} clusters with ${ADDRESSES.toLocaleString('en')} addresses`;
  return [
    { name: `${what}: from the start until the cache is ready`, value: seconds, unit: 's', bar: '< 20' },
    { name: 'the same: resident memory at its highest', value: peakMegabytes, unit: 'MB', bar: '< 500' },
    { name: 'the same: processor time of the hub', value: cpuSeconds, unit: 's' },
    { name: 'the same: longest step of the event loop', value: longestStep, unit: 'ms', bar: '< 50' },
    { name: 'one change at a cluster until it is in the cache, p99', value: delay, unit: 'ms', bar: '< 100' },
    { name: 'takeover of a complete cache until all is ready', value: second.figures.seconds, unit: 's', bar: '< 20' },
    { name: 'the same: resident memory at its highest', value: second.figures.peakMegabytes, unit: 'MB', bar: '< 500' },
    { name: 'the same: longest step of the event loop', value: second.figures.longestStep, unit: 'ms', bar: '< 50' },
  ];
}

async function hub(own: Etcd): Promise<{ readonly figures: CopyFigures; end(): Promise<void> }> {
  const folder = mkdtempSync(join(tmpdir(), 'mesh-bench-'));
  const script = fileURLToPath(new URL('./kvstoremesh-hub.ts', import.meta.url));
  const args = [script, own.endpoints[0] ?? '', folder, String(CLUSTERS)];
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout });
  const [line] = (await Promise.race([once(lines, 'line'), once(child, 'exit')])) as [unknown];
  if (typeof line !== 'string') throw new Error('the hub ended');
  return {
    figures: JSON.parse(line) as CopyFigures,
    async end() {
      const ended = once(child, 'exit');
      child.stdin.end();
      await ended;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** From the put at the source until a reader of the cache has it. */
async function latency(own: Etcd, clusters: readonly StandInCluster[]): Promise<number> {
  const reader = openStore({ etcd: async () => ({ endpoints: own.endpoints }) });
  let seen: ((key: string) => void) | undefined;
  const watch = reader.watchPrefix('cilium/cache/ip/v1/', {
    listing() {},
    put: (key) => seen?.(key),
    remove() {},
    listed() {},
  });
  await until('the cache is listed', () => watch.synced, 60_000);
  const delays: number[] = [];
  for (let index = 0; index < CHANGES; index++) {
    const cluster = clusters[index % CLUSTERS];
    if (cluster === undefined) throw new Error('no cluster');
    const ip = bulkAddress(index);
    const arrived = new Promise<void>((resolve) => {
      seen = (key) => key === `${cluster.name}/${ip}` && resolve();
    });
    const began = performance.now();
    await cluster.address({
      ip,
      identity: cluster.firstIdentity + 2000,
      host: bulkHost(index),
      pod: `changed-${index}`,
    });
    await arrived;
    delays.push(performance.now() - began);
  }
  await reader.close();
  return delays.sort((a, b) => a - b)[Math.floor(delays.length * 0.99)] ?? 0;
}

/** What it costs to look at every value. */
function admitting(): Row[] {
  const own = new PrefixIndex();
  for (const text of ['10.64.0.0/16', '192.0.2.1/32', '10.64.3.0/30']) {
    const prefix = parsePrefix(text);
    if (prefix !== undefined) own.add(prefix, 'own');
  }
  const addresses = new OwnedAddresses({ own, compare: () => 0, onChange() {} });
  const admission = openAdmission({
    cluster: 'c',
    block: identityBlock(1),
    addresses,
    onRanges() {},
    onEncryption() {},
  });
  const values = Array.from({ length: 50_000 }, (_, index) => {
    const identity = bulkIdentity({ id: 1, addresses: 50_000 }, index);
    const value = addressValue({ ip: bulkAddress(index), host: bulkHost(index), identity, namespace: 'n', pod: 'p' });
    return [bulkAddress(index), Buffer.from(value)] as const;
  });
  const round = (): void => {
    for (const [key, value] of values) if (admission.check('ip', key, value) !== undefined) throw new Error(key);
  };
  round();
  const began = process.cpuUsage();
  for (let index = 0; index < 5; index++) round();
  const { user, system } = process.cpuUsage(began);
  return [
    { name: 'checks of 250,000 addresses of a cluster', value: (user + system) / 1000, unit: 'ms', bar: '< 1000' },
  ];
}
