import { Health } from '../../src/api/health.ts';
import { Credentials } from '../../src/hub/clusters/credentials.ts';
import { Election } from '../../src/hub/election.ts';
import { KvstoreMesh } from '../../src/hub/mesh/kvstoremesh.ts';
import { openWriterStore } from '../../src/kvstore/writer-store.ts';
import { silentLog } from '../../src/observe/log.ts';

/** A hub that does nothing but copy clusters while it leads: a process of its own, to be killed. */
const [endpoint = '', folder = ''] = process.argv.slice(2);
const store = openWriterStore({
  etcd: async () => ({ endpoints: [endpoint] }),
  timing: { retryMinMs: 50, retryMaxMs: 300 },
});

new Election({
  store,
  id: `hub-${process.pid}`,
  ttlSeconds: 2,
  onChange() {},
  onProblem: (message, error) => void process.stderr.write(`${message}: ${String(error)}\n`),
  async lead(leader) {
    const mesh = new KvstoreMesh({
      own: { name: 'vms', id: 100 },
      max: 255,
      pools: [],
      store,
      conditions: leader.conditions,
      onRefused: (reason) => leader.resign(reason),
      transact: (transaction) => leader.transact(transaction),
      credentials: new Credentials(folder),
      health: new Health(() => {}),
      log: silentLog,
    });
    await mesh.start();
    process.stdout.write(`leads ${leader.term}\n`);
    await new Promise((resolve) => leader.signal.addEventListener('abort', resolve, { once: true }));
    await mesh.stop();
  },
});
