/**
 * The demonstration: two clusters and a machine on this host, in network namespaces of their own, with real stores, real
 * packets and the real program; with a hub between them, or (`--direct`) the machine in one of the clusters. `scripts/demo.sh`
 * runs it. Exit code 1 when a single flow goes another way than the policy says.
 */
import { parseArgs } from 'node:util';
import { DirectDemo } from './demo-direct.ts';
import { HubDemo } from './demo-hub.ts';
import type { Demo } from './demo-parts.ts';

/** Rejects at the first signal. Later ones are heard too, and change nothing: the demo is on its way out. */
function signal(): Promise<never> {
  const first = Promise.withResolvers<never>();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => first.reject(new Interrupted()));
  return first.promise;
}

class Interrupted extends Error {}

async function main(): Promise<number> {
  const flag = { type: 'boolean', default: false } as const;
  const { values } = parseArgs({ options: { keep: flag, direct: flag, hub: flag } });
  const demo: Demo = values.direct ? new DirectDemo() : new HubDemo();
  const interrupted = signal();
  interrupted.catch(() => {});
  let code = 1;
  try {
    await Promise.race([demo.run(), interrupted]);
    code = demo.wrong === 0 ? 0 : 1;
    const sum = demo.wrong === 0 ? 'Every flow went as its policy says.' : `${demo.wrong} flows went another way.`;
    demo.screen.verdict(demo.wrong === 0, sum);
    if (values.keep) {
      demo.explore();
      const clock = setInterval(() => {}, 60_000);
      await interrupted.finally(() => clearInterval(clock));
    }
  } catch (error) {
    demo.screen.interrupt();
    if (!(error instanceof Interrupted)) demo.screen.verdict(false, `The demo failed: ${String(error)}`);
    else if (!values.keep) code = 130;
  } finally {
    await demo.close();
    demo.screen.remark('Namespaces, stores and processes are taken away again.');
  }
  return code;
}

process.exit(await main());
