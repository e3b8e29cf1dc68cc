import { Gauge } from 'prom-client';
import { MeshError } from '../../core/errors.ts';
import type { Metrics } from '../../observe/metrics.ts';
import { hostAndPort } from '../etcd/arguments.ts';
import type { HubContext, HubPart, PartFactory } from '../part.ts';
import { serveEnrolmentApi } from './api.ts';
import { AuditLog } from './audit.ts';
import { Books } from './books.ts';
import { EnrolmentCare } from './care.ts';
import type { EnrolmentContext } from './context.ts';
import { type HubPlace, HubPlaces } from './hub-places.ts';
import { joinScript } from './install-script.ts';
import { Packages } from './packages.ts';
import { revokeMachine } from './revoke.ts';
import { EnrolmentRoutes, type RequestLimits } from './routes.ts';
import { type EnrolmentLimits, EnrolmentServer } from './server.ts';

export interface EnrolmentOptions {
  readonly now?: () => number;
  readonly certificateSeconds?: number;
  readonly limits?: Partial<EnrolmentLimits & RequestLimits>;
  readonly careMs?: number;
}

const RETRY_MS = 2000;

/** Enrolment in every hub: the HTTPS server, and what administrators ask for. */
export function enrolmentPart(options: EnrolmentOptions = {}): PartFactory {
  return { where: 'everywhere', create: (hub) => new EnrolmentPart(hub, options) };
}

/** The rest of it, in the hub that leads: rights follow the certificates, what is over is forgotten. */
export function enrolmentCarePart(options: EnrolmentOptions = {}): PartFactory {
  return {
    where: 'leader',
    create(hub) {
      const context = enrolmentContext(hub, options, () => [ownPlace(hub)]);
      const { careMs } = options;
      const care = new EnrolmentCare({ context, store: hub.store, ...(careMs !== undefined && { everyMs: careMs }) });
      return {
        name: 'enrolment-care',
        start: async () => care.start(),
        stop: () => care.stop(),
        status: () => ({ sweeps: care.sweeps }),
      };
    },
  };
}

/** Ends all certificates, tokens and rights of a machine: for whoever deletes or blocks its workload. @throws MeshError KVS-* */
export async function revokeEnrolment(
  hub: Pick<HubContext, 'config' | 'store' | 'pki' | 'access' | 'log'>,
  workload: string,
  by: string,
): Promise<void> {
  await revokeMachine(
    enrolmentContext(hub, {}, () => []),
    { workload, by },
  );
}

class EnrolmentPart implements HubPart {
  readonly name = 'enrolment';
  readonly #hub: HubContext;
  readonly #routes: EnrolmentRoutes;
  readonly #server: EnrolmentServer;
  readonly #context: EnrolmentContext;
  #places: HubPlaces | undefined;
  #retry: NodeJS.Timeout | undefined;
  #stopped = false;
  #listening = false;

  constructor(hub: HubContext, options: EnrolmentOptions) {
    this.#hub = hub;
    const { config, pki, store, log } = hub;
    const { limits = {} } = options;
    const context = enrolmentContext(hub, options, () => this.#places?.list() ?? [ownPlace(hub)]);
    this.#context = context;
    exportEnrolment(hub.metrics, () => this.#routes.counts);
    this.#routes = new EnrolmentRoutes({
      context,
      packages: new Packages(pki.folder.packages),
      installScript: () => joinScript(context, undefined),
      ready: () => store.status.state === 'connected',
      limits,
    });
    this.#server = new EnrolmentServer({
      listen: config.listen.enrolment,
      credentials: () => ({ ...pki.server, ca: pki.ca.certificate }),
      answer: this.#routes.answer,
      log: log.child('enrolment'),
      limits,
    });
  }

  /** A port that is taken is tried again: it must not end the hub, which has machines to serve. */
  async start(): Promise<void> {
    this.#places = new HubPlaces(this.#hub.store, ownPlace(this.#hub));
    serveEnrolmentApi(this.#hub.api, this.#context);
    await this.#listen();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#retry);
    if (this.#listening) await this.#server.stop();
    await this.#places?.close();
  }

  status(): object {
    const { counts } = this.#routes;
    const { connections, refused } = this.#server;
    return {
      listen: this.#hub.config.listen.enrolment,
      listening: this.#listening,
      hubs: this.#places?.list() ?? [],
      connections,
      refusedConnections: refused,
      ...counts,
    };
  }

  async #listen(): Promise<void> {
    const { health } = this.#hub;
    try {
      await this.#server.start();
      this.#listening = true;
      health.clear('enrolment', 'HUB-ENROLMENT');
    } catch (error) {
      if (!(error instanceof MeshError)) throw error;
      health.fail('enrolment', error);
      if (!this.#stopped) this.#retry = setTimeout(() => void this.#listen(), RETRY_MS);
    }
  }
}

/** What was answered to machines, by result. */
function exportEnrolment(metrics: Metrics, counts: () => object): void {
  const gauge = new Gauge({
    name: 'mesh_agent_hub_enrolment_requests',
    help: 'requests of machines since the start of the hub, by result',
    labelNames: ['result'],
    registers: [metrics.registry],
  });
  metrics.onScrape(() => {
    for (const [result, count] of Object.entries(counts())) gauge.set({ result }, Number(count));
  });
}

/** The first name is told to machines, for both ports of a hub. */
function ownPlace({ config }: Pick<HubContext, 'config'>): HubPlace {
  const [name = ''] = config.names;
  const host = name.includes(':') ? `[${name}]` : name;
  const url = (listen: string): string => `https://${host}:${hostAndPort(listen).port}`;
  return { enrolment: url(config.listen.enrolment), store: url(config.listen.etcd) };
}

function enrolmentContext(
  hub: Pick<HubContext, 'config' | 'store' | 'pki' | 'access' | 'log'>,
  options: EnrolmentOptions,
  hubs: () => readonly HubPlace[],
): EnrolmentContext {
  const { config, store, pki, access } = hub;
  const log = hub.log.child('enrolment');
  const { now = Date.now, certificateSeconds = config.certificates.life } = options;
  return {
    config,
    store,
    ca: pki.ca,
    access,
    books: new Books(store),
    audit: new AuditLog({ store, log, now }),
    log,
    certificateSeconds,
    hubs,
    now,
  };
}
