import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { factPrefix } from '../src/kvstore/paths.ts';
import { openStore } from '../src/kvstore/session.ts';
import { FactSink } from '../src/mesh/fact-sinks.ts';
import { Tables } from '../src/mesh/tables.ts';
import { longestStep } from '../test/kvstore/mirror.ts';
import { until } from '../test/lab/namespace.ts';

/**
 * What `watch.ts` starts, so that the event loop is that of a reader alone: `node watch-follow.ts ENDPOINT CLUSTERS`. Each
 * cluster has a connection of its own, as in an agent or a hub. A line with a number waits for so many changes of each and
 * is answered with the figures.
 */
export interface FollowFigures {
  readonly longestStep: number;
  readonly cpuSeconds: number;
  readonly peakMegabytes: number;
}

const [endpoint = '', count = '1'] = process.argv.slice(2);
const tables = new Tables(() => {});
let taken = 0;
const followed = Array.from({ length: Number(count) }, (_, index) => {
  const cluster = { name: `c${index + 1}`, id: index + 1, max: 255 as const, joined: false };
  const store = openStore({ etcd: async () => ({ endpoints: [endpoint] }) });
  const prefix = factPrefix('endpoints', cluster.name, 'cached');
  const sink = new FactSink(tables, cluster, { kind: 'endpoints', prefix, onListed() {} });
  const watch = store.watchPrefix(prefix, {
    listing: () => sink.listing(),
    put(key, value) {
      sink.put(key, value);
      taken++;
    },
    remove: (key) => sink.remove(key),
    listed: () => sink.listed(),
  });
  return { store, watch };
});
await until('all is listed', () => followed.every(({ watch }) => watch.synced), 60_000);
taken = 0;

const lines = createInterface({ input: process.stdin });
lines.on('line', async (line) => {
  const before = process.cpuUsage();
  const step = await longestStep(() => until('all was taken', () => taken >= Number(line) * followed.length, 120_000));
  taken = 0;
  const { user, system } = process.cpuUsage(before);
  const figures: FollowFigures = {
    longestStep: step,
    cpuSeconds: (user + system) / 1e6,
    peakMegabytes: process.resourceUsage().maxRSS / 1024,
  };
  process.stdout.write(`${JSON.stringify(figures)}\n`);
});
process.stdout.write('ready\n');
await once(lines, 'close');
for (const { store } of followed) await store.close();
