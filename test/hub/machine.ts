import type { OwnedKey, Store } from '../../src/kvstore/store.ts';
import { until } from '../lab/namespace.ts';
import type { Labels } from '../lab/values.ts';

export const REGISTER = 'cilium/state/noderegister/v1/';

export const announcement = (name: string): string =>
  `{"Name":"${name}","Cluster":"","IPAddresses":null,"IPv4AllocCIDR":null,"IPv4SecondaryAllocCIDRs":null,"IPv6AllocCIDR":null,"IPv6SecondaryAllocCIDRs":null,"IPv4HealthIP":"","IPv6HealthIP":"","IPv4IngressIP":"","IPv6IngressIP":"","ClusterID":0,"Source":"local","EncryptionKey":0,"Labels":null,"Annotations":null,"NodeIdentity":0,"WireguardPubKey":"","BootID":""}`;

export interface Answer {
  readonly Name: string;
  readonly Labels: Labels;
  readonly NodeIdentity: number;
  readonly IPAddresses: unknown;
  readonly IPv4AllocCIDR: { IP: string } | null;
  readonly Cluster: string;
  readonly ClusterID: number;
}

/** A Cilium 1.16 agent with `--join-cluster`: announces, takes the first answer, writes it back with its addresses. */
export class Machine {
  readonly name: string;
  readonly key: OwnedKey;
  readonly #store: Store;

  constructor(store: Store, name: string, options: { readonly ttlSeconds?: number } = {}) {
    this.name = name;
    this.#store = store;
    this.key = store.own(REGISTER + name, announcement(name), options);
  }

  async answer(): Promise<Answer> {
    let found: Answer | undefined;
    await until(`${this.name} is answered`, async () => {
      const value = JSON.parse(
        (await this.#store.get(REGISTER + this.name))?.value.toString() ?? 'null',
      ) as Answer | null;
      found = value !== null && value.NodeIdentity !== 0 && value.IPAddresses === null ? value : undefined;
      return found !== undefined;
    });
    return found as Answer;
  }

  report(answer: Answer, addresses: readonly (readonly [type: string, ip: string])[], more: object = {}): void {
    const value = {
      ...answer,
      Source: 'local',
      Annotations: {},
      BootID: 'b9ccfd51-0000-4000-8000-000000000001',
      IPAddresses: addresses.map(([Type, IP]) => ({ Type, IP })),
      ...more,
    };
    this.key.update(JSON.stringify(value));
  }

  async join(...addresses: (readonly [type: string, ip: string])[]): Promise<Answer> {
    const answer = await this.answer();
    this.report(answer, addresses);
    return answer;
  }
}
