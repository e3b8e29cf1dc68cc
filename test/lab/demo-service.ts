import type { Agent } from './agent.ts';
import type { Screen } from './demo-screen.ts';
import type { Place } from './place.ts';
import { ServiceLab } from './services.ts';
import type { DualAddress } from './topology.ts';

const CONNECTIONS = 60;
const SERVICE = 'production/web';
const VIPS = { 'cluster-a': '10.96.0.10', 'cluster-b': '10.97.0.10' } as const;
/** By pod, how many new connections are expected: a third, by chance; or half; or none. */
const BOTH = { 'cluster-a/frontend': [5, 40], 'cluster-a/batch': [5, 40], 'cluster-b/frontend': [5, 40] } as const;
const WITHOUT_B = {
  ...BOTH,
  'cluster-a/frontend': [15, 45],
  'cluster-a/batch': [15, 45],
  'cluster-b/frontend': [0, 0],
};

type Shares = Readonly<Record<string, readonly number[]>>;

interface Running {
  readonly agent: Agent;
  readonly machine: Place & DualAddress;
}

/** What the chapter is about: one service of two clusters, and one of them fails. */
export class ServiceChapter {
  readonly #screen: Screen;
  readonly #agent: Agent;
  readonly #mesh: ServiceLab;

  constructor(screen: Screen, lab: ConstructorParameters<typeof ServiceLab>[0] & Running) {
    this.#screen = screen;
    this.#agent = lab.agent;
    this.#mesh = new ServiceLab(lab);
  }

  /** @returns how many things went another way than expected */
  async run(): Promise<number> {
    const screen = this.#screen;
    const mesh = this.#mesh;
    for (const [cluster, vip] of Object.entries(VIPS)) await mesh.announce(cluster, 'web', vip);
    await screen.step(`${SERVICE} is announced by both clusters, each with an address of its own`, () =>
      mesh.serving(SERVICE, ['cluster-a', 'cluster-a', 'cluster-b']),
    );
    await this.#show('service', 'list');
    let wrong = await this.#connect(VIPS['cluster-a'], BOTH);
    wrong += await this.#connect(VIPS['cluster-b'], BOTH);
    mesh.cutOff('cluster-b');
    await screen.step('cluster-b is cut off, with its store; after the grace its backends get no new connections', () =>
      mesh.serving(SERVICE, ['cluster-a', 'cluster-a']),
    );
    await this.#show('service', 'get', SERVICE);
    wrong += await this.#connect(VIPS['cluster-b'], WITHOUT_B);
    screen.remark('the address that cluster-b gave the service goes on: cluster-a answers');
    mesh.restore('cluster-b');
    await screen.step('cluster-b is back, and has its share again', () =>
      mesh.serving(SERVICE, ['cluster-a', 'cluster-a', 'cluster-b']),
    );
    return wrong + (await this.#connect(VIPS['cluster-a'], BOTH));
  }

  async #connect(vip: string, expected: Shares): Promise<number> {
    const mesh = this.#mesh;
    mesh.forget();
    const outcome = await mesh.connect(vip, CONNECTIONS);
    const counts = mesh.counts();
    const rows = Object.entries(expected).map(([pod, [least = 0, most = 0]]) => {
      const seen = counts[pod] ?? 0;
      const words = most === 0 ? 'none' : `${least} to ${most}`;
      return { title: pod, expects: words, seen: String(seen), good: seen >= least && seen <= most };
    });
    rows.push({
      title: 'answered',
      expects: 'all',
      seen: outcome === 'pass' ? 'all' : outcome,
      good: outcome === 'pass',
    });
    return this.#screen.comparison(`${CONNECTIONS} connections to ${vip}:80`, rows);
  }

  async #show(...args: string[]): Promise<void> {
    const { stdout } = await this.#agent.run(...args);
    this.#screen.excerpt(`mesh-agent ${args.join(' ')}`, stdout);
  }
}
