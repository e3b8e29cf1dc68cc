import type { Tables } from '../../mesh/tables.ts';
import type { ServiceFact } from '../../service/facts.ts';
import { mergeSlices } from '../../service/slices.ts';

/** What a cluster says of a service, by `<cluster>/<namespace>/<name>`; undefined when it says nothing. */
export function serviceFact({ services, serviceSlices }: Tables, key: string): ServiceFact | undefined {
  return mergeSlices(services.get(key), serviceSlices.of(key));
}

/** Keys of all services of all clusters, also of those that have slices alone. */
export function* serviceKeys({ services, serviceSlices }: Tables): Iterable<string> {
  for (const [key] of services.entries()) yield key;
  for (const key of serviceSlices.services()) if (services.get(key) === undefined) yield key;
}
