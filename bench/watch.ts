import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { publishMany } from '../test/lab/bulk.ts';
import { Etcd } from '../test/lab/etcd.ts';
import { StoreClient } from '../test/lab/store-client.ts';
import type { Row } from './row.ts';
import type { FollowFigures } from './watch-follow.ts';

/** Bursts of changes, in transactions of 128, and what they do to the event loop of whoever follows them. */
export async function run(): Promise<Row[]> {
  const etcd = await Etcd.start({ flags: ['--quota-backend-bytes', String(4 * 2 ** 30)] });
  const writer = new StoreClient({ endpoints: etcd.endpoints });
  try {
    return [
      ...(await following({ etcd, writer, clusters: 1, changes: 50_000 })),
      ...(await following({ etcd, writer, clusters: 20, changes: 10_000 })),
    ];
  } finally {
    await writer.close();
    await etcd.close();
  }
}

interface Scene {
  readonly etcd: Etcd;
  readonly writer: StoreClient;
  readonly clusters: number;
  /** In each cluster. */
  readonly changes: number;
}

async function following(scene: Scene): Promise<Row[]> {
  const { etcd, clusters, changes } = scene;
  await write(scene, 100);
  const script = fileURLToPath(new URL('./watch-follow.ts', import.meta.url));
  const child = spawn(process.execPath, ['--no-warnings', script, etcd.endpoints[0] ?? '', String(clusters)]);
  child.stderr.pipe(process.stderr);
  try {
    const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    await answers.next();
    const figures = async (): Promise<FollowFigures> => JSON.parse((await answers.next()).value ?? '') as FollowFigures;
    ask(child, changes);
    await write(scene, 200);
    const live = await figures();
    // As a machine that slept: all that came meanwhile comes at once, in answers as large as etcd makes them.
    child.kill('SIGSTOP');
    await write(scene, 300);
    ask(child, changes);
    child.kill('SIGCONT');
    const late = await figures();
    const what = clusters === 1 ? `${changes} changes` : `${changes} changes in each of ${clusters} clusters`;
    return [
      {
        name: `${what}, as they come: longest step of the event loop`,
        value: live.longestStep,
        unit: 'ms',
        bar: '< 50',
      },
      {
        name: `${what}, all at once: longest step of the event loop`,
        value: late.longestStep,
        unit: 'ms',
        bar: '< 50',
      },
      { name: `${what}, all at once: processor time`, value: late.cpuSeconds, unit: 's' },
      { name: `${what}: resident memory at its highest`, value: late.peakMegabytes, unit: 'MB' },
    ];
  } finally {
    child.kill();
  }
}

function ask(child: ChildProcessWithoutNullStreams, changes: number): void {
  child.stdin.write(`${changes}\n`);
}

/** Other identities are other values of the same keys. */
async function write({ writer, clusters, changes }: Scene, identities: number): Promise<void> {
  for (let id = 1; id <= clusters; id++)
    await publishMany(writer, {
      cluster: `c${id}`,
      id,
      layout: 'cached',
      addresses: changes,
      first: id * 65_536,
      identities,
      nodes: 0,
    });
}
