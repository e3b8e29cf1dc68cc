import { isDeepStrictEqual } from 'node:util';
import { Feed } from '../core/feed.ts';
import type { EndpointSlice } from '../kvstore/codec/endpoint-slice.ts';
import { FactTable } from './fact-table.ts';
import type { Origin } from './origin.ts';

/** Endpoint slices by `<cluster>/<namespace>/<slice>`, and which ones make up a service. */
export class ServiceSlices {
  /** Services, as `<cluster>/<namespace>/<service>`, whose slices may be others now. */
  readonly changed = new Feed<string>();
  readonly #slices = new FactTable<string, EndpointSlice>(isDeepStrictEqual);
  readonly #byService = new Map<string, Set<string>>();

  get size(): number {
    return this.#slices.size;
  }

  countOf(origin: Origin): number {
    return this.#slices.countOf(origin);
  }

  /** In the order of their names: the same facts are the same list. */
  of(service: string): EndpointSlice[] {
    const keys = [...(this.#byService.get(service) ?? [])].sort();
    return keys.map((key) => this.#slices.get(key)).filter((slice) => slice !== undefined);
  }

  /** Services that have a slice. */
  services(): Iterable<string> {
    return this.#byService.keys();
  }

  put(origin: Origin, generation: number, key: string, slice: EndpointSlice): void {
    const before = this.#slices.get(key);
    this.#slices.put(origin, generation, key, slice);
    if (isDeepStrictEqual(before, slice)) return;
    if (before !== undefined) this.#unlink(key, before);
    const service = serviceOf(slice);
    const keys = this.#byService.get(service) ?? new Set<string>();
    this.#byService.set(service, keys.add(key));
    this.changed.mark(service);
  }

  keep(origin: Origin, generation: number, key: string): void {
    this.#slices.keep(origin, generation, key);
  }

  remove(origin: Origin, key: string): void {
    const before = this.#slices.get(key);
    this.#slices.remove(origin, key);
    if (before !== undefined && this.#slices.get(key) === undefined) this.#unlink(key, before);
  }

  sweeping(origin: Origin, generation?: number): Generator<void> {
    return this.#slices.sweeping(origin, generation, (key, slice) => this.#unlink(key, slice));
  }

  #unlink(key: string, slice: EndpointSlice): void {
    const service = serviceOf(slice);
    const keys = this.#byService.get(service);
    keys?.delete(key);
    if (keys?.size === 0) this.#byService.delete(service);
    this.changed.mark(service);
  }
}

const serviceOf = ({ cluster, namespace, service }: EndpointSlice): string => `${cluster}/${namespace}/${service}`;
