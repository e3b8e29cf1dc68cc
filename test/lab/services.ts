import type { BackendRecord, KernelServiceRecord, ServiceRecord } from '../../src/api/types.ts';
import type { Agent } from './agent.ts';
import { until } from './namespace.ts';
import type { Outcome, Place, ProbeProtocol } from './place.ts';
import type { Ports } from './values.ts';

/** New connections to what pods serve, in both families. */
const COUNT = `table inet seen {
  counter opened { }
  chain enter {
    type filter hook input priority 0;
    tcp dport 80 ct state new counter name opened
    udp dport 53 ct state new counter name opened
  }
}`;
/** As a server whose process is gone, and as one whose host is. */
const STOPPED = { refused: 'reject with tcp reset', silent: 'drop' } as const;
const AT_ONCE = 20;

export const HTTP: Ports = { http: { Protocol: 'TCP', Port: 80 } };

/** Whoever has an agent, a machine and clusters with pods. */
interface Lab {
  readonly agent: Agent;
  readonly machine: Place;
  readonly clusters: ReadonlyMap<string, LabCluster>;
  cluster(name: string): LabCluster;
}

interface LabPod extends Place {
  readonly ipv4: string;
  readonly ipv6: string;
}

interface LabCluster {
  readonly node: { readonly place: Place };
  readonly pods: ReadonlyMap<string, LabPod>;
  readonly facts: {
    service(service: {
      readonly namespace: string;
      readonly name: string;
      readonly frontends: Readonly<Record<string, Ports>>;
      readonly backends: Readonly<Record<string, Ports>>;
      readonly shared?: boolean;
    }): Promise<void>;
  };
}

export interface Announced {
  /** All pods of the cluster by default, in the families of the frontends. */
  readonly backends?: Readonly<Record<string, Ports>>;
  /** Of frontends and backends alike; HTTP by default. */
  readonly ports?: Ports;
  readonly shared?: boolean;
}

/** Services of the namespace `production` in the clusters of a lab, and what becomes of them on its machine. */
export class ServiceLab {
  readonly #lab: Lab;

  constructor(lab: Lab) {
    this.#lab = lab;
    for (const { namespace } of this.#pods().values()) namespace.feed(COUNT, 'nft', '-f', '-');
  }

  async announce(cluster: string, name: string, frontend: string | readonly string[], shape: Announced = {}) {
    const { ports = HTTP, backends, shared } = shape;
    const vips = typeof frontend === 'string' ? [frontend] : frontend;
    const { pods, facts } = this.#lab.cluster(cluster);
    const own = [...pods.values()].flatMap(({ ipv4, ipv6 }) =>
      [ipv4, ipv6].filter((address) => vips.some((vip) => vip.includes(':') === address.includes(':'))),
    );
    await facts.service({
      namespace: 'production',
      name,
      frontends: Object.fromEntries(vips.map((vip) => [vip, ports])),
      backends: backends ?? Object.fromEntries(own.map((address) => [address, ports])),
      ...(shared !== undefined && { shared }),
    });
  }

  /** What the agent says of a service, `<namespace>/<name>`, one record for each cluster that announces it. */
  async records(service: string): Promise<ServiceRecord[]> {
    const [namespace = '', name = ''] = service.split('/');
    return all(this.#lab.agent.api.services({ namespace, name }));
  }

  async backends(service: string): Promise<readonly BackendRecord[]> {
    const [first] = await this.records(service);
    return first?.balanced?.backends ?? [];
  }

  kernel(): Promise<KernelServiceRecord[]> {
    return all(this.#lab.agent.api.kernelServices());
  }

  /** Waits until these clusters serve, each as often as it has backend addresses, and the kernel has the same. */
  async serving(service: string, clusters: readonly string[]): Promise<void> {
    const wanted = sorted(clusters);
    await until(
      `${service} is served by ${wanted}`,
      async () => {
        const own = (await this.backends(service)).filter(({ serving }) => serving);
        const there = (await this.kernel()).filter((each) => each.service === service);
        const inKernel = new Set(there.flatMap(({ backends }) => backends.map(({ address }) => address)));
        return (
          sorted(own.map(({ cluster }) => cluster)) === wanted &&
          there.length > 0 &&
          sorted(inKernel) === sorted(own.flatMap(({ addresses }) => addresses))
        );
      },
      30_000,
    );
  }

  /** New connections are counted from now on. */
  forget(): void {
    for (const { namespace } of this.#pods().values())
      namespace.run('nft', 'reset', 'counters', 'table', 'inet', 'seen');
  }

  /** New connections that came to each pod, `<cluster>/<pod>`, since `forget`. */
  counts(): Record<string, number> {
    const counted = [...this.#pods()].map(([name, { namespace }]) => {
      const text = namespace.run('nft', 'list', 'counters', 'table', 'inet', 'seen');
      return [name, Number(/packets (\d+)/.exec(text)?.[1] ?? -1)] as const;
    });
    return Object.fromEntries(counted);
  }

  /** So many new connections from the machine. @returns every outcome that there was, `pass` when all passed */
  async connect(to: string, count: number, protocol: ProbeProtocol = 'tcp'): Promise<string> {
    const outcomes = new Set<Outcome>();
    const port = protocol === 'udp' ? 53 : 80;
    for (let left = count; left > 0; left -= AT_ONCE) {
      const some = Array.from({ length: Math.min(AT_ONCE, left) }, () =>
        this.#lab.machine.probe({ protocol, to, port, timeoutMs: 5000 }),
      );
      for (const outcome of await Promise.all(some)) outcomes.add(outcome);
    }
    return [...outcomes].join();
  }

  /** New connections one after the other, three at a time, until `end`. */
  load(to: string): Load {
    const seen: Seen[] = [];
    let done = false;
    const running = Array.from({ length: 3 }, async () => {
      while (!done) {
        const at = performance.now();
        const outcome = await this.#lab.machine.probe({ protocol: 'tcp', to, port: 80, timeoutMs: 1500 });
        seen.push({ at, outcome });
      }
    });
    return {
      since: (at) => seen.filter((each) => each.at >= at).map(({ outcome }) => outcome),
      end: async () => {
        done = true;
        await Promise.all(running);
      },
    };
  }

  /** A pod takes no new TCP connections on port 80; those that it has go on. */
  stop(place: Place, how: keyof typeof STOPPED = 'refused'): void {
    const rule = `tcp dport 80 ct state new ${STOPPED[how]}`;
    const chain = `chain enter { type filter hook input priority 10; ${rule}; }`;
    place.namespace.feed(`table inet stopped {\n${chain}\n}\n`, 'nft', '-f', '-');
  }

  resume(place: Place): void {
    place.namespace.run('nft', 'delete', 'table', 'inet', 'stopped');
  }

  /** The node of a cluster, with its store and its pods, is gone from the network, as if its power was cut. */
  cutOff(cluster: string): void {
    const chain = (hook: string, device: string): string =>
      `chain ${hook} { type filter hook ${hook} priority -400; ${device} "eth0" drop; }`;
    const chains = [chain('prerouting', 'iifname'), chain('postrouting', 'oifname')];
    const { namespace } = this.#lab.cluster(cluster).node.place;
    namespace.feed(`table inet cut {\n${chains.join('\n')}\n}\n`, 'nft', '-f', '-');
  }

  restore(cluster: string): void {
    this.#lab.cluster(cluster).node.place.namespace.run('nft', 'delete', 'table', 'inet', 'cut');
  }

  #pods(): ReadonlyMap<string, LabPod> {
    const pods = [...this.#lab.clusters].flatMap(([cluster, { pods }]) =>
      [...pods].map(([name, pod]) => [`${cluster}/${name}`, pod] as const),
    );
    return new Map(pods);
  }
}

interface Seen {
  /** When it began, monotonic milliseconds. */
  readonly at: number;
  readonly outcome: Outcome;
}

export interface Load {
  /** Outcomes of connections that began then or later. */
  since(at: number): readonly Outcome[];
  end(): Promise<void>;
}

const sorted = (texts: Iterable<string>): string => [...texts].sort().join();

async function all<T>(records: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const each of records) found.push(each);
  return found;
}
