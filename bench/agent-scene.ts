import { createInterface } from 'node:readline';
import { bulkAddress, bulkHost, bulkIdentity, publishMany } from '../test/lab/bulk.ts';
import { StandInCluster } from '../test/lab/cluster.ts';
import { addressValue, factKey } from '../test/lab/values.ts';
import { WorkloadManager } from '../test/lab/workload.ts';
import { addressWord, hearAddresses } from './kernel-ear.ts';

/**
 * The world around a measured agent, in the machine's network namespace: a cluster in an etcd on loopback, and an ear on
 * the kernel's table. Orders are lines of JSON on standard input, answers lines on standard output.
 */
const CLUSTER = 'bench';
const ID = 7;
/** Changes in one transaction: etcd takes 128. */
const BURST = 100;

const etcd = { endpoints: ['http://127.0.0.1:2379'] };
const cluster = new StandInCluster({ name: CLUSTER, id: ID, etcd });
const workloads = new WorkloadManager(cluster, etcd);
const pending = new Map<number, number>();
let latencies: number[] = [];
/** Addresses that were made up so far: none comes twice. */
let serial = 0;

function heard(address: number): void {
  const since = pending.get(address);
  if (since === undefined) return;
  pending.delete(address);
  latencies.push(performance.now() - since);
}

const orders: Readonly<Record<string, (order: { count: number; rate: number; seconds: number }) => Promise<unknown>>> =
  {
    async publish({ count }) {
      await cluster.publish();
      await publishMany(cluster.store, { cluster: CLUSTER, id: ID, addresses: count });
      await workloads.apply({ name: 'bench-vm', labels: { app: 'bench' }, ipv4AllocCidr: '10.192.1.0/30' });
      return true;
    },
    async change({ count, rate, seconds }) {
      latencies = [];
      pending.clear();
      const total = Math.round(rate * seconds);
      const start = performance.now();
      for (let i = 0; i < total; ) {
        const due = Math.min(total, i + BURST, Math.floor(((performance.now() - start) / 1000) * rate) + 1);
        const entries: (readonly [string, string])[] = [];
        for (; i < due; i++) entries.push(change(i, count));
        if (entries.length > 0) await cluster.store.putAll(entries, cluster.lease ?? 0n);
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
      const tookMs = performance.now() - start;
      for (let waited = 0; pending.size > 0 && waited < 20_000; waited += 50)
        await new Promise((resolve) => setTimeout(resolve, 50));
      latencies.sort((a, b) => a - b);
      const at = (share: number): number =>
        latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * share))] ?? Number.NaN;
      return { total, tookMs, missing: pending.size, p50: at(0.5), p99: at(0.99), max: at(1) };
    },
  };

/** A new address, so that its element is seen as such; its identity is one of the cluster's. */
function change(index: number, count: number): readonly [key: string, value: string] {
  const at = count + 1_000_000 + serial++;
  const ip = bulkAddress(at);
  const identity = bulkIdentity({ id: ID, addresses: count }, index);
  const value = addressValue({ ip, host: bulkHost(index % count), identity, namespace: 'n', pod: `p${index}` });
  pending.set(addressWord(ip), performance.now());
  return [factKey(CLUSTER, 'direct', 'endpoints', ip), value];
}

hearAddresses(heard);
for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line) as { do: string; count: number; rate: number; seconds: number };
  const answer = await orders[order.do]?.(order);
  process.stdout.write(`${JSON.stringify(answer ?? null)}\n`);
}
process.exit(0);
