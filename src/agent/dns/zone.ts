import { type Address, formatAddress, parseAddress } from '../../core/ip.ts';
import type { NamedBackend, NamedPlace, NamedService } from '../../service/names.ts';
import type { Labels } from './query.ts';

/**
 * A zone `svc.<domain>`. `cluster`: names as the joined cluster has them, its own service before a global one of the same
 * name. `clusterset`: global services alone (Kubernetes KEP-1645).
 */
export interface Zone {
  readonly kind: 'cluster' | 'clusterset';
  readonly apex: Labels;
}

/** What is asked about services; answers are those of this moment. */
export interface NameFacts {
  /** Everything was seen once; before that, what is not known may well be. */
  isReady(): boolean;
  /** `name` is `<namespace>/<name>`. */
  named(name: string): readonly NamedService[];
  hasNamespace(namespace: string, kind: NamedService['kind']): boolean;
}

export interface Target {
  /** Of the service, in front of the zone's apex. */
  readonly service: Labels;
  readonly port: number;
  /** Of a headless service; the service itself is meant otherwise. */
  readonly backend: NamedBackend | undefined;
}

/** What a name holds; nothing at all for one that only has names below. */
export interface Node {
  readonly addresses: readonly Address[];
  readonly targets: readonly Target[];
}

const NOTHING: Node = { addresses: [], targets: [] };
/** RFC 1123; a name from a store that is none cannot be asked for. */
const LABEL = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/;

/**
 * What a zone has under a name; undefined when there is no such name, nor any below it.
 *
 *   <service>.<namespace>                          addresses
 *   _<port>._<protocol>.<service>.<namespace>      targets
 *   <endpoint>.<service>.<namespace>               a backend of a headless service: its host name, or 10-1-2-3 for 10.1.2.3
 *   <endpoint>.<cluster>.<service>.<namespace>     the same in a zone of the clusterset
 */
export function nodeAt(zone: Zone, below: Labels, facts: NameFacts): Node | undefined {
  const [namespace, name, ...rest] = [...below].reverse();
  if (namespace === undefined || !LABEL.test(namespace)) return undefined;
  const kinds = zone.kind === 'cluster' ? (['own', 'global'] as const) : (['global'] as const);
  if (name === undefined) return kinds.some((kind) => facts.hasNamespace(namespace, kind)) ? NOTHING : undefined;
  if (!LABEL.test(name)) return undefined;
  const all = facts.named(`${namespace}/${name}`);
  const service = kinds.map((kind) => all.find((each) => each.kind === kind)).find((each) => each !== undefined);
  return service === undefined ? undefined : belowService(zone, service, { base: [name, namespace], rest });
}

function belowService(
  zone: Zone,
  service: NamedService,
  { base, rest }: { readonly base: Labels; readonly rest: Labels },
): Node | undefined {
  const [first, second, ...more] = rest;
  const places: readonly NamedPlace[] = service.headless ?? service.frontends;
  if (first === undefined) return { ...NOTHING, addresses: places.map(({ address }) => address) };
  if (more.length > 0) return undefined;
  if (first.startsWith('_')) return portNode(service, { base, protocol: first, port: second });
  const [cluster, endpoint, ...others] = zone.kind === 'cluster' ? [undefined, ...rest] : rest;
  if (others.length > 0) return undefined;
  const asked = endpoint === undefined ? undefined : endpointAddress(endpoint);
  const found = (service.headless ?? []).filter(
    (backend) =>
      (cluster === undefined || cluster === backend.cluster) &&
      (endpoint === undefined ||
        endpoint === backend.hostname ||
        (asked !== undefined && isSame(asked, backend.address))),
  );
  if (found.length === 0) return undefined;
  return endpoint === undefined ? NOTHING : { ...NOTHING, addresses: found.map(({ address }) => address) };
}

function portNode(
  { frontends, headless }: NamedService,
  { base, protocol, port }: { readonly base: Labels; readonly protocol: string; readonly port: string | undefined },
): Node | undefined {
  const isAsked = (each: { readonly name: string; readonly protocol: string }): boolean =>
    each.name !== '' &&
    `_${each.protocol.toLowerCase()}` === protocol &&
    (port === undefined || `_${each.name.toLowerCase()}` === port);
  const targets = headless?.flatMap((backend) =>
    backend.ports.filter(isAsked).map((each) => ({ service: base, port: each.port, backend })),
  );
  const found = targets ?? toService(base, frontends, isAsked);
  if (found.length === 0) return undefined;
  return port === undefined ? NOTHING : { addresses: [], targets: found };
}

/** One for each number, however many addresses have it. */
function toService(
  base: Labels,
  frontends: readonly NamedPlace[],
  isAsked: (port: NamedPlace['ports'][number]) => boolean,
): Target[] {
  const numbers = new Set(frontends.flatMap(({ ports }) => ports.filter(isAsked).map(({ port }) => port)));
  return [...numbers].map((port) => ({ service: base, port, backend: undefined }));
}

/** The full name of a target; in a clusterset that of a backend says which cluster has it. */
export function targetName({ kind, apex }: Zone, { service, backend }: Target): Labels {
  if (backend === undefined) return [...service, ...apex];
  const endpoint = backend.hostname ?? endpointText(backend.address);
  return [endpoint, ...(kind === 'cluster' ? [] : [backend.cluster]), ...service, ...apex];
}

const endpointText = (address: Address): string => formatAddress(address).replace(/[.:]/g, '-');

/** Undefined for what is no endpoint's name: each address has one. */
function endpointAddress(label: string): Address | undefined {
  const address = parseAddress(label.replaceAll('-', '.')) ?? parseAddress(label.replaceAll('-', ':'));
  return address !== undefined && endpointText(address) === label ? address : undefined;
}

function isSame(a: Address, b: Address): boolean {
  return a.family === b.family && a.words.every((word, index) => word === b.words[index]);
}
