import { createInterface } from 'node:readline';
import { bulkAddress, bulkHost, publishMany } from '../test/lab/bulk.ts';
import { StandInCluster } from '../test/lab/cluster.ts';
import { addressWord } from './kernel-ear.ts';

/**
 * The clusters that a measured hub copies, in the network namespace of the hub, in one etcd that carries them all as
 * the cache of another hub would. Orders are lines of JSON on standard input, answers lines on standard output.
 */
export interface WorldOrder {
  readonly do: 'publish' | 'change';
  readonly clusters: number;
  /** Of each cluster. */
  readonly addresses: number;
  readonly changes?: number;
  /** A second. */
  readonly rate?: number;
}

/** Of `change`: addresses, and the monotonic time in ms at which each was put. */
export type WorldChanges = readonly (readonly [address: number, at: number])[];

/** Addresses of a cluster begin here: room for its own and for those that are changed. */
const STRIDE = 1 << 15;

const [endpoint = ''] = process.argv.slice(2);
const clusters: StandInCluster[] = [];

async function publish({ clusters: count, addresses }: WorldOrder): Promise<boolean> {
  const etcd = { endpoints: [endpoint] };
  for (let index = 0; index < count; index++) {
    const heartbeatMs = index === 0 ? 10_000 : 0;
    const cluster = new StandInCluster({ name: `c${index}`, id: index + 1, etcd, layout: 'cached', heartbeatMs });
    const { name, id, store, layout } = cluster;
    await publishMany(store, { cluster: name, id, layout, addresses, first: index * STRIDE });
    await cluster.publish();
    clusters.push(cluster);
  }
  return true;
}

/** New addresses, one after the other, of one cluster after the other. */
async function change({ addresses, changes = 0, rate = 1 }: WorldOrder): Promise<WorldChanges> {
  const made: (readonly [number, number])[] = [];
  const began = performance.now();
  for (let index = 0; index < changes; index++) {
    const due = began + (index * 1000) / rate;
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, due - performance.now())));
    const at = index % clusters.length;
    const cluster = clusters[at] as StandInCluster;
    const ip = bulkAddress(at * STRIDE + addresses + index);
    const pod = { identity: cluster.firstIdentity + 2000, host: bulkHost(at * STRIDE), pod: `changed-${index}` };
    made.push([addressWord(ip), Number(process.hrtime.bigint()) / 1e6]);
    await cluster.address({ ip, ...pod });
  }
  return made;
}

for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line) as WorldOrder;
  const answer = await (order.do === 'publish' ? publish(order) : change(order));
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
