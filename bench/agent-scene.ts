import { createInterface } from 'node:readline';
import { Attributes, forEachAttribute } from '../src/host/attributes.ts';
import { NETLINK_NETFILTER, NetlinkSocket } from '../src/host/netlink.ts';
import { bulkAddress, bulkHost, bulkIdentity, publishMany } from '../test/lab/bulk.ts';
import { StandInCluster } from '../test/lab/cluster.ts';
import { addressValue, factKey } from '../test/lab/values.ts';
import { WorkloadManager } from '../test/lab/workload.ts';

/**
 * The world around a measured agent, in the machine's network namespace: a cluster in an etcd on loopback, and an ear on
 * the kernel's table. Orders are lines of JSON on standard input, answers lines on standard output.
 */
const CLUSTER = 'bench';
const ID = 7;
const NFNLGRP_NFTABLES = 7;
/** Changes in one transaction: etcd takes 128. */
const BURST = 100;
const NEW_ELEMENT = (10 << 8) | 12;

const etcd = { endpoints: ['http://127.0.0.1:2379'] };
const cluster = new StandInCluster({ name: CLUSTER, id: ID, etcd });
const workloads = new WorkloadManager(cluster, etcd);
const pending = new Map<number, number>();
let latencies: number[] = [];
/** Addresses that were made up so far: none comes twice. */
let serial = 0;

// One socket that only hears: an address of host4 that we wait for is in the kernel now.
function listen(): void {
  const socket = new NetlinkSocket({
    family: NETLINK_NETFILTER,
    receiveBuffer: 64 << 20,
    onEvent: ({ type, body }) => {
      if (type !== NEW_ELEMENT || !(new Attributes(body, 4).string(2) ?? '').startsWith('host4')) return;
      const now = performance.now();
      forEachAttribute(body, { offset: 4, end: body.length }, (list, start, length) => {
        if (list !== 3) return;
        forEachAttribute(body, { offset: start, end: start + length }, (_, at, size) => heard(body, { at, size }, now));
      });
    },
  });
  socket.join(NFNLGRP_NFTABLES);
  socket.keepAlive(true);
}

function heard(body: Buffer, { at, size }: { at: number; size: number }, now: number): void {
  forEachAttribute(body, { offset: at, end: at + size }, (type, start) => {
    if (type !== 1) return;
    const address = body.readUInt32BE(start + 4);
    const since = pending.get(address);
    if (since === undefined) return;
    pending.delete(address);
    latencies.push(now - since);
  });
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
  const word = ip.split('.').reduce((all, part) => all * 256 + Number(part), 0);
  const value = addressValue({ ip, host: bulkHost(index % count), identity, namespace: 'n', pod: `p${index}` });
  pending.set(word, performance.now());
  return [factKey(CLUSTER, 'direct', 'endpoints', ip), value];
}

listen();
for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line) as { do: string; count: number; rate: number; seconds: number };
  const answer = await orders[order.do]?.(order);
  process.stdout.write(`${JSON.stringify(answer ?? null)}\n`);
}
process.exit(0);
