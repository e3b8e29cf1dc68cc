import { after, afterEach, before, beforeEach } from 'node:test';
import { openWriterStore, type WriterStore } from '../../src/kvstore/writer-store.ts';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { addressValue, nodeValue } from '../lab/values.ts';
import { HubLab, type HubLabOptions } from './hub-lab.ts';
import { Machine } from './machine.ts';

/** What the tests of a file share: an etcd that is emptied before each, hubs, and the store that machines write through. */
export class HubScene {
  #etcd: Etcd | undefined;
  #machines: WriterStore | undefined;
  #hubs: HubLab[] = [];

  /** Once, at the top of the file: the hooks are the file's. */
  constructor() {
    before(async () => {
      this.#etcd = await Etcd.start();
    });
    after(() => this.etcd.close());
    beforeEach(async () => {
      await this.etcd.ctl('del', '--prefix', 'cilium/');
      await this.etcd.ctl('del', '--prefix', 'mesh-agent/');
      this.#openMachines();
    });
    afterEach(async () => {
      await this.machines.close();
      await Promise.all(this.#hubs.map((hub) => hub.stop()));
      this.#hubs = [];
    });
  }

  get etcd(): Etcd {
    return this.#etcd as Etcd;
  }

  get machines(): WriterStore {
    return this.#machines as WriterStore;
  }

  /** Resolves when it works; it leads a little later. */
  async start(options: Partial<HubLabOptions> = {}): Promise<HubLab> {
    const hub = await HubLab.start({ etcd: this.etcd, ...options });
    this.#hubs.push(hub);
    return hub;
  }

  async lead(options: Partial<HubLabOptions> = {}): Promise<HubLab> {
    const hub = await this.start(options);
    await until('it leads', () => hub.leading);
    return hub;
  }

  /** One that the test starts itself. */
  own(hub: HubLab): void {
    this.#hubs.push(hub);
  }

  async stop(hub: HubLab): Promise<void> {
    this.#hubs = this.#hubs.filter((each) => each !== hub);
    await hub.stop();
  }

  /** All machines lose their connection at once: their leases run out. */
  async cutMachines(): Promise<void> {
    await this.machines.close();
    this.#openMachines();
  }

  machine(name: string, options?: { readonly ttlSeconds?: number }): Machine {
    return new Machine(this.machines, name, options);
  }

  async get(key: string): Promise<string | undefined> {
    return (await this.machines.get(key))?.value.toString();
  }

  /** What is published of an address. */
  async pair(ip: string): Promise<{ ID: number; HostIP: string } | undefined> {
    return JSON.parse((await this.get(`cilium/state/ip/v1/default/${ip}`)) ?? 'null') ?? undefined;
  }

  /** Addresses and ranges of a machine, as peers see them. */
  async published(name: string): Promise<string[]> {
    return (await this.machines.list('cilium/state/ip/v1/default/'))
      .filter(({ value }) => value.toString().includes(`"K8sPodName":"${name}"`))
      .map(({ key }) => key);
  }

  /** Cluster `cluster-b` as the cache has it: a node with a pod range and a router, and a pod outside of that. */
  async neighbor({ router }: { readonly router: string }): Promise<void> {
    const addresses = [
      { Type: 'InternalIP', IP: '172.18.0.7' },
      { Type: 'CiliumInternalIP', IP: router },
    ];
    const node = { name: 'node-1', cluster: 'cluster-b', clusterId: 2, range4: '10.2.0.0/24', addresses };
    await this.etcd.put('cilium/cache/nodes/v1/cluster-b/node-1', nodeValue(node));
    const pod = addressValue({ ip: '10.77.0.5', identity: 131_073 });
    await this.etcd.put('cilium/cache/ip/v1/cluster-b/10.77.0.5', pod);
  }

  #openMachines(): void {
    this.#machines = openWriterStore({
      etcd: async () => ({ endpoints: this.etcd.endpoints }),
      timing: { retryMinMs: 50, retryMaxMs: 300 },
    });
  }
}

export function registered(hub: HubLab, name: string): Promise<void> {
  return until(`${name} is registered`, async () => (await hub.get(name)).state === 'registered');
}
