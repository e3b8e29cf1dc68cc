import { MeshError } from '../../core/errors.ts';
import { JobGroup, sleep } from '../../core/job.ts';
import type { Leadership } from '../election.ts';
import { giveBack } from '../give-back.ts';
import { KvstoreMesh, type MeshTiming } from '../mesh/kvstoremesh.ts';
import type { HubContext, HubPart, PartFactory } from '../part.ts';
import { ClusterBook } from './cluster-book.ts';
import { Credentials } from './credentials.ts';
import { describeCluster, describeDocument, describeForCilium } from './describe.ts';
import { exportClusters } from './metrics.ts';
import type { RemoteClusterRecord, Verdict } from './records.ts';

/** What runs at present in this hub, for the socket and the metrics. */
interface Present {
  mesh: KvstoreMesh | undefined;
}

const presents = new WeakMap<HubContext, Present>();
const HEALTH_MS = 5000;
/** Keys that were copied. */
const MANY = 20_000;
/** A cluster that was just connected may wait for so long before that is worth a word. */
const PATIENCE_MS = 60_000;

/** In every hub: connecting, exporting and showing clusters. */
export const clustersPart: PartFactory = {
  where: 'everywhere',
  create: (context) => {
    const present = presentOf(context);
    const book = new ClusterBook(context);
    return {
      name: 'clusters',
      async start() {
        await new Credentials(context.pki.folder.path).removeProbes();
        addRoutes(context, { book, present });
        exportClusters(context.metrics, {
          cluster: context.config.cluster.name,
          mesh: () => present.mesh,
        });
      },
      async stop() {},
      status: () => ({}),
    };
  },
};

/** In the hub that leads: copying the clusters. */
export function kvstoremeshPartWith(timing: Partial<MeshTiming>): PartFactory {
  return { where: 'leader', create: (context, leader) => kvstoremesh(context, leader, timing) };
}

function kvstoremesh(context: HubContext, leader: Leadership, timing: Partial<MeshTiming>): HubPart {
  const { config, store, pki, health } = context;
  const log = context.log.child('kvstoremesh');
  const present = presentOf(context);
  const jobs = new JobGroup((name, error) => log.error('background work ended', { name, error }));
  const mesh = new KvstoreMesh({
    own: config.cluster,
    max: config.maxConnectedClusters,
    pools: config.pools,
    store,
    conditions: leader.conditions,
    onRefused: (reason) => leader.resign(reason),
    transact: (transaction) => leader.transact(transaction),
    credentials: new Credentials(pki.folder.path),
    health,
    log,
    timing,
  });
  return {
    name: 'kvstoremesh',
    async start() {
      await mesh.start();
      present.mesh = mesh;
      jobs.start('health', async (signal) => {
        while (!signal.aborted) {
          for (const cluster of records(mesh)) judge(context, cluster);
          await sleep(HEALTH_MS, signal);
        }
      });
      const copies = { amount: () => mesh.size, many: MANY, isBusy: () => mesh.pending > 0 };
      jobs.start('memory', (signal) => giveBack(copies, signal));
    },
    async stop() {
      if (present.mesh === mesh) present.mesh = undefined;
      await jobs.stop();
      await mesh.stop();
    },
    status: () => ({
      ready: mesh.readiness.ready,
      waitingFor: mesh.readiness.waitingFor,
      bootstrapSeconds: mesh.readiness.bootstrapSeconds ?? null,
      removing: mesh.removing,
      clusters: records(mesh),
    }),
  };
}

function presentOf(context: HubContext): Present {
  const known = presents.get(context);
  if (known !== undefined) return known;
  const present: Present = { mesh: undefined };
  presents.set(context, present);
  return present;
}

function records(mesh: KvstoreMesh): readonly RemoteClusterRecord[] {
  return mesh.clusters.map((connected) => describeCluster(mesh, connected));
}

function addRoutes(
  { api, leading }: HubContext,
  { book, present }: { readonly book: ClusterBook; readonly present: Present },
): void {
  const leads = (): KvstoreMesh => {
    const { mesh } = present;
    if (mesh !== undefined) return mesh;
    const why = leading()
      ? 'it has begun to lead a moment ago'
      : 'clusters are seen by the hub that leads: `hub status` names it';
    throw new MeshError('HUB-NOT-LEADER', why);
  };
  const nameOf = (params: Readonly<Record<string, string>>): string => params.name ?? '';
  api.route('GET', 'cluster', () => ({ record: records(leads()).map(describeForCilium) }));
  api.route('GET', 'readyz', () => {
    const { ready, waitingFor } = leads().readiness;
    return { record: { status: ready ? 'Ready' : 'NotReady', waitingFor } };
  });
  // A hub that does not lead knows what is connected, and nothing of how it goes.
  api.route('GET', 'clusters', async () => ({
    list: present.mesh === undefined ? (await book.list()).map(describeDocument) : records(present.mesh),
  }));
  api.route('GET', 'clusters/:name', async ({ params }) => {
    const document = await book.get(nameOf(params));
    const mesh = leads();
    const connected = mesh.clusters.find(({ document: { name } }) => name === document.name);
    return { record: connected === undefined ? describeDocument(document) : describeCluster(mesh, connected) };
  });
  api.route('PUT', 'clusters/:name', async ({ params, body }) => ({
    record: await book.connect(nameOf(params), body),
  }));
  api.route('DELETE', 'clusters/:name', async ({ params }) => {
    await book.disconnect(nameOf(params));
    return undefined;
  });
  api.route('POST', 'clusters/:name/export', async ({ params }) => ({ record: await book.export(nameOf(params)) }));
  api.route('DELETE', 'clusters/:name/export', async ({ params }) => {
    await book.revoke(nameOf(params));
    return undefined;
  });
}

/** The verdicts of a cluster as troubles of the hub: one for each code. */
function judge({ health }: HubContext, cluster: RemoteClusterRecord): void {
  const subject = `cluster/${cluster.name}`;
  const young = Date.now() - cluster.changedAt < PATIENCE_MS;
  const worth = cluster.verdicts.filter(
    (verdict): verdict is Verdict & { code: MeshError['code'] } =>
      verdict.code !== undefined && !(young && verdict.code === 'HUB-CLUSTER-WAITING'),
  );
  const codes = new Set(worth.map(({ code }) => code));
  for (const record of health.list())
    if (record.subject === subject && !codes.has(record.code as MeshError['code']))
      health.clear(subject, record.code as MeshError['code']);
  for (const code of codes) {
    const all = worth.filter((verdict) => verdict.code === code);
    const severity = all.some(({ state }) => state === 'error') ? 'error' : 'warning';
    health.set(subject, { code, severity, text: all.map(({ text }) => text).join('; ') });
  }
}
