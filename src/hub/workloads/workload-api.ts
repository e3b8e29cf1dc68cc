import { MeshError } from '../../core/errors.ts';
import { BadValue, type Fields, fieldsOf } from '../../kvstore/codec/json.ts';
import type { HubApi } from '../api.ts';
import type { HubFacts } from './hub-facts.ts';
import type { LabelMap } from './labels.ts';
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
  return reading(
    body,
    ['name', 'namespace', 'labels', 'serviceAccount', 'ipv4AllocCidr', 'ipv6AllocCidr'],
    (fields) => ({
      name: string(fields, 'name') ?? '',
      namespace: string(fields, 'namespace'),
      labels: labels(fields),
      serviceAccount: string(fields, 'serviceAccount'),
      ipv4AllocCidr: string(fields, 'ipv4AllocCidr'),
      ipv6AllocCidr: string(fields, 'ipv6AllocCidr'),
    }),
  );
}

function readChange(body: unknown): WorkloadChange {
  return reading(body, ['labels', 'removeLabels'], (fields) => {
    const remove = fields.get('removelabels') ?? [];
    if (!Array.isArray(remove) || remove.some((each) => typeof each !== 'string'))
      throw new BadValue('removeLabels is no list of strings');
    return { labels: labels(fields) ?? {}, removeLabels: remove as string[] };
  });
}

/** @throws MeshError API-REQUEST */
function reading<T>(body: unknown, known: readonly string[], read: (fields: Fields) => T): T {
  try {
    const fields = fieldsOf(body, 'the body');
    const names = known.map((name) => name.toLowerCase());
    for (const name of fields.keys())
      if (!names.includes(name)) throw new BadValue(`unknown field ${JSON.stringify(name.slice(0, 50))}`);
    return read(fields);
  } catch (error) {
    if (error instanceof BadValue) throw new MeshError('API-REQUEST', error.message);
    throw error;
  }
}

function string(fields: Fields, name: string): string | undefined {
  const value = fields.get(name.toLowerCase());
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'string') throw new BadValue(`${name} is no string`);
  return value;
}

function labels(fields: Fields): LabelMap | undefined {
  const value = fields.get('labels');
  if (value === undefined || value === null) return undefined;
  fieldsOf(value, 'labels');
  for (const [key, item] of Object.entries(value as object))
    if (typeof item !== 'string') throw new BadValue(`label ${JSON.stringify(key.slice(0, 50))} is no string`);
  return value as LabelMap;
}
