import { MeshError } from '../../core/errors.ts';
import type { HubApi } from '../api.ts';
import { labelsOf, readBody, stringOf, stringsOf } from '../request-body.ts';
import type { HubFacts } from './hub-facts.ts';
import { workloadRecord } from './records.ts';
import type { WorkloadChange, WorkloadRequest, Workloads } from './workloads.ts';

/** Adds `/v1/workloads` to the hub's socket. */
export function serveWorkloads(
  api: HubApi,
  options: {
    readonly facts: HubFacts;
    readonly workloads: Workloads;
    /** The hub follows a Kubernetes cluster: what is from there is not to be changed here. */
    readonly kubernetes: boolean;
  },
): void {
  const { facts, kubernetes } = options;
  /** A hub that has not read the store yet knows nothing of what is taken. */
  const ready = async (): Promise<Workloads> => {
    await facts.ready();
    return options.workloads;
  };
  const changeable = async (name: string): Promise<Workloads> => {
    const workloads = await ready();
    if (kubernetes && facts.book.get(name)?.source === 'kubernetes')
      throw new MeshError('HUB-WORKLOAD-KUBERNETES', JSON.stringify(name.slice(0, 100)));
    return workloads;
  };
  const recordOf = async (name: string) => {
    await facts.ready();
    const workload = facts.book.get(name);
    if (workload === undefined) throw new MeshError('HUB-WORKLOAD-MISSING', JSON.stringify(name.slice(0, 100)));
    return { record: workloadRecord(workload, facts.records.get(name)) };
  };
  api.route('GET', 'workloads', async () => {
    await facts.ready();
    return { list: [...facts.book.values()].map((each) => workloadRecord(each, facts.records.get(each.name))) };
  });
  api.route('GET', 'workloads/:name', ({ params }) => recordOf(params.name ?? ''));
  api.route('POST', 'workloads', async ({ body }) => {
    const created = await (await ready()).create(readRequest(body));
    return { record: workloadRecord(created, undefined) };
  });
  api.route('PUT', 'workloads/:name', async ({ params, body }) => {
    const changed = await (await changeable(params.name ?? '')).change(params.name ?? '', readChange(body));
    return { record: workloadRecord(changed, facts.records.get(changed.name)) };
  });
  api.route('DELETE', 'workloads/:name', async ({ params }) => {
    const deleted = await (await changeable(params.name ?? '')).delete(params.name ?? '');
    return { record: workloadRecord(deleted, undefined) };
  });
}

function readRequest(body: unknown): WorkloadRequest {
  return readBody(
    body,
    ['name', 'namespace', 'labels', 'serviceAccount', 'ipv4AllocCidr', 'ipv6AllocCidr'],
    (fields) => ({
      name: stringOf(fields, 'name') ?? '',
      namespace: stringOf(fields, 'namespace'),
      labels: labelsOf(fields, 'labels'),
      serviceAccount: stringOf(fields, 'serviceAccount'),
      ipv4AllocCidr: stringOf(fields, 'ipv4AllocCidr'),
      ipv6AllocCidr: stringOf(fields, 'ipv6AllocCidr'),
    }),
  );
}

function readChange(body: unknown): WorkloadChange {
  return readBody(body, ['labels', 'removeLabels'], (fields) => {
    return { labels: labelsOf(fields, 'labels') ?? {}, removeLabels: stringsOf(fields, 'removeLabels') ?? [] };
  });
}
