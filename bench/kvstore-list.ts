import { decodeAddress } from '../src/kvstore/codec/address.ts';
import { openStore } from '../src/kvstore/session.ts';
import { until } from '../test/lab/namespace.ts';

/** What `kvstore.ts` starts, so that memory is that of a list alone: `node kvstore-list.ts ENDPOINT PREFIX`. */
export interface ListFigures {
  readonly puts: number;
  readonly seconds: number;
  readonly peakMegabytes: number;
  /** Processor time of the longest step, milliseconds: what other processes take does not count. */
  readonly longestStep: number;
}

const TICK_MS = 5;

async function main(endpoint: string, prefix: string): Promise<ListFigures> {
  const store = openStore({ etcd: async () => ({ endpoints: [endpoint] }) });
  await store.get('nothing');
  const before = process.memoryUsage.rss();
  let peak = before;
  let longestStep = 0;
  let last = process.threadCpuUsage();
  const watchdog = setInterval(() => {
    const { user, system } = process.threadCpuUsage(last);
    last = process.threadCpuUsage();
    longestStep = Math.max(longestStep, (user + system) / 1000 - TICK_MS);
    peak = Math.max(peak, process.memoryUsage.rss());
  }, TICK_MS);
  let puts = 0;
  const began = performance.now();
  const watch = store.watchPrefix(prefix, {
    listing() {},
    put(key, value) {
      decodeAddress(key, value, [65_536, 131_071]);
      puts++;
    },
    remove() {},
    listed() {},
  });
  await until('all is listed', () => watch.synced, 120_000);
  const seconds = (performance.now() - began) / 1000;
  clearInterval(watchdog);
  await store.close();
  return { puts, seconds, peakMegabytes: (peak - before) / 2 ** 20, longestStep };
}

process.stdout.write(JSON.stringify(await main(process.argv[2] ?? '', process.argv[3] ?? '')));
