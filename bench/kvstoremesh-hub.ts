import { once } from 'node:events';
import { Health } from '../src/api/health.ts';
import { Credentials } from '../src/hub/clusters/credentials.ts';
import { KvstoreMesh } from '../src/hub/mesh/kvstoremesh.ts';
import { openWriterStore } from '../src/kvstore/writer-store.ts';
import { silentLog } from '../src/observe/log.ts';
import { longestStep } from '../test/kvstore/mirror.ts';

/** The part of a hub that copies clusters, in a process of its own. */
export interface CopyFigures {
  /** From the start of the process until every cluster was ready. */
  readonly seconds: number;
  /** Resident memory at its highest, and now. */
  readonly peakMegabytes: number;
  readonly megabytes: number;
  /** Processor time of this process. */
  readonly cpuSeconds: number;
  /** Milliseconds for which the event loop was held meanwhile. */
  readonly longestStep: number;
}

const [endpoint = '', folder = '', count = '0'] = process.argv.slice(2);
const store = openWriterStore({ etcd: async () => ({ endpoints: [endpoint] }) });
const mesh = new KvstoreMesh({
  own: { name: 'vms', id: 100 },
  max: 255,
  pools: ['10.64.0.0/16', '10.65.0.0/16'],
  store,
  conditions: [],
  onRefused() {},
  transact: (transaction) => store.transact(transaction),
  credentials: new Credentials(folder),
  health: new Health(() => {}),
  log: silentLog,
});
await mesh.start();
const allReady = (): boolean =>
  mesh.clusters.length === Number(count) && mesh.clusters.every(({ cluster }) => cluster.ready);
const held = await longestStep(async () => {
  while (!allReady()) await new Promise((resolve) => setTimeout(resolve, 10));
});
const { user, system } = process.cpuUsage();
const figures: CopyFigures = {
  seconds: performance.now() / 1000,
  peakMegabytes: process.resourceUsage().maxRSS / 1024,
  megabytes: process.memoryUsage().rss / 2 ** 20,
  cpuSeconds: (user + system) / 1e6,
  longestStep: held,
};
process.stdout.write(`${JSON.stringify(figures)}\n`);
process.stdin.resume();
await once(process.stdin, 'end');
await mesh.stop();
await store.close();
