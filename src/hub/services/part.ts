import { API_VERSION } from '../../api/types.ts';
import { MeshError } from '../../core/errors.ts';
import type { PartFactory } from '../part.ts';
import { ownAddresses } from '../registration/part.ts';
import { type HubFacts, hubFactsOf } from '../workloads/hub-facts.ts';
import { Frontends } from './frontends.ts';
import { exportServices } from './metrics.ts';
import {
  type HubServiceChanged,
  type HubServiceRecord,
  type HubServiceRefused,
  type ServicesFacts,
  serviceRecord,
} from './records.ts';
import { readServiceRequest } from './service-request.ts';
import { Services } from './services.ts';

/** In every hub, behind the part that opens the facts: services on machines as an administrator wants them. */
export const servicesPart: Extract<PartFactory, { where: 'everywhere' }> = {
  where: 'everywhere',
  create: (context) => {
    const { store, config, api, metrics } = context;
    let facts: HubFacts | undefined;
    return {
      name: 'services',
      async start() {
        const known = hubFactsOf(store);
        facts = known;
        const frontends = new Frontends({
          store,
          facts: known,
          pools: config.pools,
          servicePools: config.services.pools,
          own: ownAddresses(config),
        });
        const services = new Services({ store, table: known.services, frontends });
        const keyOfPath = (params: Readonly<Record<string, string>>): string => `${params.namespace}/${params.name}`;
        api.route('GET', 'services', async () => {
          await known.ready();
          return { list: recordsOf(known) };
        });
        api.route('GET', 'services/:namespace/:name', async ({ params }) => {
          await known.ready();
          return { record: recordOf(known, keyOfPath(params)) };
        });
        api.route('POST', 'services', async ({ body }) => {
          const request = readServiceRequest(body);
          await known.ready();
          const outcome = await services.put(request);
          const answer: HubServiceChanged | HubServiceRefused =
            'findings' in outcome
              ? { apiVersion: API_VERSION, kind: 'HubServiceValidation', ok: false, items: outcome.findings }
              : {
                  apiVersion: API_VERSION,
                  kind: 'HubServiceChanged',
                  change: outcome.change,
                  service: recordOf(known, outcome.key),
                };
          return { record: answer };
        });
        api.route('DELETE', 'services/:namespace/:name', async ({ params }) => {
          await known.ready();
          await services.delete(keyOfPath(params));
          return undefined;
        });
        exportServices(metrics, known.services);
      },
      async stop() {},
      status: (): ServicesFacts => ({
        services: facts?.services.size ?? 0,
        ...tallyOf(facts),
        unreadable: Object.fromEntries([...(facts?.services.unreadable ?? [])].slice(0, 10)),
      }),
    };
  },
};

function tallyOf(facts: HubFacts | undefined): Pick<ServicesFacts, 'backends' | 'active'> {
  let [backends, active] = [0, 0];
  for (const { namespace, name } of facts?.services.services() ?? []) {
    for (const [state, count] of facts?.services.counts(`${namespace}/${name}`) ?? []) {
      backends += count;
      if (state === 'active') active += count;
    }
  }
  return { backends, active };
}

/** Each is made when its turn comes: all together may be a million backends. */
function* recordsOf({ services }: HubFacts): Iterable<HubServiceRecord> {
  for (const { namespace, name } of services.services()) {
    const service = services.get(`${namespace}/${name}`);
    if (service !== undefined) yield serviceRecord(service, services.backends(`${namespace}/${name}`));
  }
}

/** @throws MeshError HUB-SERVICE-MISSING */
function recordOf({ services }: HubFacts, key: string): HubServiceRecord {
  const service = services.get(key);
  if (service === undefined) throw new MeshError('HUB-SERVICE-MISSING', JSON.stringify(key.slice(0, 130)));
  return serviceRecord(service, services.backends(key));
}
