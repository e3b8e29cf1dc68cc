import type { Address } from '../core/ip.ts';
import type { BackendCondition } from '../kvstore/codec/endpoint-slice.ts';
import type { ClusterService } from '../kvstore/codec/service.ts';

/** What the model asks about addresses; answers are those of this moment, and the model is told when they may have changed. */
export interface AddressFacts {
  /** Why no service of this cluster may have the address as a frontend: it is somebody's; undefined when it may. */
  frontendRefusal(address: Address, from: { readonly cluster: string; readonly joined: boolean }): string | undefined;
  /** Why the address is not believed to be a backend of this cluster; undefined when it is. */
  backendRefusal(address: Address, from: { readonly cluster: string; readonly joined: boolean }): string | undefined;
}

/** A cluster as far as its services are concerned. */
export interface ClusterFacts {
  /** Since when it counts as lost, milliseconds since the epoch; undefined while it does not. */
  readonly lostSince: number | undefined;
}

/** One cluster's word on a service, from whichever keys of its store. */
export interface ServiceFact extends ClusterService {
  /** By canonical address; what is not named is ready. */
  readonly conditions?: ReadonlyMap<string, BackendCondition>;
}
