import { isDeepStrictEqual } from 'node:util';
import type { NumericIdentity } from '../core/identity.ts';
import type { LabelSet } from '../core/labels.ts';
import type { Node } from '../kvstore/codec/node.ts';
import type { ClusterService } from '../kvstore/codec/service.ts';
import { FactTable } from './fact-table.ts';
import { nextAfter } from './generation.ts';
import { Ipcache } from './ipcache.ts';
import { NodeAddresses } from './node-addresses.ts';
import { Origins } from './origin.ts';
import { PortNames } from './port-names.ts';
import { Quarantine, type Quarantined } from './quarantine.ts';
import { ServiceSlices } from './service-slices.ts';
import { Slices } from './slices.ts';

export interface IdentityFact {
  readonly cluster: string;
  readonly labels: LabelSet;
}

/** All present facts of all clusters: the only place where they are kept. */
export class Tables {
  readonly origins = new Origins();
  readonly ipcache = new Ipcache(this.origins);
  readonly identities = new FactTable<NumericIdentity, IdentityFact>(sameIdentity);
  /** By `<cluster>/<name>`. */
  readonly nodes = new FactTable<string, Node>(isDeepStrictEqual);
  /** By `<cluster>/<namespace>/<name>`. */
  readonly services = new FactTable<string, ClusterService>(isDeepStrictEqual);
  readonly serviceSlices = new ServiceSlices();
  readonly portNames = new PortNames();
  readonly nodeAddresses = new NodeAddresses(this.ipcache, this.origins);
  readonly quarantine: Quarantine;

  /** Sweeps of the big tables, in pieces. */
  readonly slices = new Slices();
  readonly #generations = new Map<string, number>();

  /**
   * A number for one listing: facts of earlier ones that were not listed again are swept. Each scope (one kind of facts of one
   * origin) counts for itself, so that a number cannot come back while facts carry it.
   */
  nextGeneration(scope = ''): number {
    const next = nextAfter(this.#generations.get(scope) ?? 0);
    this.#generations.set(scope, next);
    return next;
  }

  constructor(onRefused: (entry: Quarantined) => void) {
    this.quarantine = new Quarantine(onRefused);
  }
}

// Labels are interned: equal ones are one object.
function sameIdentity(a: IdentityFact, b: IdentityFact): boolean {
  return (
    a.cluster === b.cluster &&
    a.labels.length === b.labels.length &&
    a.labels.every((label, index) => label === b.labels[index])
  );
}
