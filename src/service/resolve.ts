import { type Address, parseAddress } from '../core/ip.ts';
import type { BackendCondition } from '../kvstore/codec/endpoint-slice.ts';
import type { ServicePort } from '../kvstore/codec/service.ts';
import type { AddressFacts, ClusterFacts, ServiceFact } from './facts.ts';
import { isHeadless, MAX_NAMED, type NamedBackend } from './names.ts';
import { compareClusters, type Pool } from './pools.ts';
import { matchingPorts, protocolOf } from './ports.ts';
import {
  type BackendView,
  type CheckPlan,
  type CheckTarget,
  type FrontendKey,
  type FrontendView,
  MAX_TARGETS,
  type PlaceKey,
  type ServiceFrontend,
  type ServiceTarget,
} from './result.ts';
import { type Candidate, inRotation, type RotationOptions } from './rotation.ts';
import { type CheckSettings, checkOf, type ServiceSettings } from './settings.ts';
import { consideredOf, shareOf } from './share.ts';

export interface ResolveContext {
  readonly settings: ServiceSettings;
  readonly joined: string | undefined;
  readonly facts: AddressFacts;
  cluster(name: string): ClusterFacts;
  /** Why this pool may not have the address as a frontend; undefined when it may. */
  frontendRefusal(address: string, service: ServiceFact): string | undefined;
  /** Why a backend fails the check of this machine; undefined when it passes, or was not checked yet. */
  failure(place: PlaceKey): string | undefined;
}

/** A backend without the time since when, which is not of the present. */
export type BackendState = Omit<BackendView, 'since'>;

export interface Resolved {
  readonly affinity: 'none' | 'local' | 'remote';
  readonly inForce: ReadonlyMap<FrontendKey, ServiceFrontend>;
  readonly frontends: readonly FrontendView[];
  readonly backends: readonly BackendState[];
  /** Of a headless service: the backends that its name leads to. */
  readonly headless: readonly NamedBackend[] | undefined;
  readonly problems: readonly string[];
  /** Backends that are more than this machine looks at. */
  readonly beyond: number;
  /** Undefined when the service is not checked. */
  readonly plan: CheckPlan | undefined;
}

/** A backend address that is believed. */
interface Backend {
  readonly cluster: string;
  readonly unreachable: boolean;
  readonly weight: number;
  readonly condition: BackendCondition | undefined;
  readonly hostname: string | undefined;
  readonly text: string;
  readonly address: Address;
  readonly ports: readonly ServicePort[];
  /** A port of the service matched. */
  matched: boolean;
  serving: boolean;
  /** Why one of its ports fails the check. */
  failure: string | undefined;
}

interface Place extends Candidate {
  readonly backend: Backend;
  readonly port: number;
}

/** What the facts of one pool make of its frontends and backends. */
export function resolvePool(pool: Pool, context: ResolveContext): Resolved {
  const { settings, joined } = context;
  const name = nameOf(pool);
  const rotation: RotationOptions = {
    // Without other clusters there is nothing to prefer (specification 8.5).
    affinity: pool.kind === 'global' ? (settings.affinity.get(name) ?? 'none') : 'none',
    local: settings.local ?? joined,
    onClusterLoss: settings.onClusterLoss,
  };
  const { believed, refused } = backendsOf(pool, context);
  const byPort = new Map<string, readonly ServiceTarget[]>();
  const inForce = new Map<FrontendKey, ServiceFrontend>();
  const frontends: FrontendView[] = [];
  const problems = new Set<string>();
  const check = checkOf(settings, name);
  const targets = new Map<PlaceKey, CheckTarget>();
  for (const service of pool.members) {
    for (const [text, ports] of service.frontends) {
      const address = parseAddress(text);
      const refusal = address === undefined ? 'is no address' : context.frontendRefusal(text, service);
      for (const port of ports) {
        const protocol = protocolOf(port);
        const key: FrontendKey = `${text} ${protocol} ${port.port}`;
        const wrong = refusal ?? portRefusal(port, inForce.get(key));
        frontends.push({ cluster: service.cluster, address: text, ...port, refused: wrong });
        if (address === undefined || protocol === undefined || wrong !== undefined) continue;
        const portKey = `${address.family} ${port.protocol} ${port.name}`;
        const known =
          byPort.get(portKey) ??
          targetsOf({ port, address, believed, rotation, context, problems, check, checked: targets });
        byPort.set(portKey, known);
        inForce.set(key, { address, protocol, port: port.port, sticky: settings.sticky.has(name), targets: known });
      }
    }
  }
  const headless = isHeadless(pool)
    ? serveByName({ believed, rotation, context, check, checked: targets, problems })
    : undefined;
  for (const problem of disagreements(pool)) problems.add(problem);
  let beyond = 0;
  for (const { cluster, backends } of pool.members) {
    if (backends.size <= MAX_TARGETS) continue;
    beyond += backends.size - MAX_TARGETS;
    problems.add(
      `${backends.size} backends of ${cluster} are more than ${MAX_TARGETS}: this machine uses a share of them`,
    );
  }
  return {
    affinity: rotation.affinity,
    inForce,
    frontends,
    backends: [...believed.map((backend) => stateOf(backend, rotation)), ...refused],
    headless,
    problems: [...problems],
    beyond,
    plan: check && { check, targets },
  };
}

export function nameOf({ members }: Pool): string {
  const [first] = members;
  return first === undefined ? '' : `${first.namespace}/${first.name}`;
}

function portRefusal(port: ServicePort, former: ServiceFrontend | undefined): string | undefined {
  if (protocolOf(port) === undefined) return `protocol ${JSON.stringify(port.protocol)} is not balanced`;
  if (port.port === 0) return 'port 0';
  return former === undefined ? undefined : 'the service has the same address and port already';
}

function backendsOf(pool: Pool, context: ResolveContext): { believed: Backend[]; refused: BackendState[] } {
  const { settings, joined, facts } = context;
  const believed = new Map<string, Backend>();
  const refused: BackendState[] = [];
  const local = settings.local ?? joined;
  // Where two clusters have one address, the local cluster's word counts (specification 8.3).
  const members = [...pool.members].sort(
    (a, b) =>
      Number(b.cluster === local) - Number(a.cluster === local) || compareClusters(a.cluster, b.cluster, joined),
  );
  for (const { cluster, backends, conditions, hostnames } of members) {
    const unreachable = context.cluster(cluster).lostSince !== undefined;
    const weight = settings.weights.get(cluster) ?? 1;
    for (const [text, ports] of consideredOf(backends, settings.machine)) {
      const address = parseAddress(text);
      const other = believed.get(text);
      const reason =
        address === undefined
          ? 'is no address'
          : other !== undefined
            ? `is a backend of ${other.cluster} already`
            : facts.backendRefusal(address, { cluster, joined: cluster === joined });
      if (address !== undefined && reason === undefined)
        believed.set(text, {
          cluster,
          text,
          address,
          ports,
          unreachable,
          weight,
          condition: conditions?.get(text),
          hostname: hostnames?.get(text),
          matched: false,
          serving: false,
          failure: undefined,
        });
      else refused.push({ cluster, address: text, ports, state: 'refused', serving: false, reason });
    }
  }
  return { believed: [...believed.values()], refused };
}

function targetsOf(from: {
  readonly port: ServicePort;
  readonly address: Address;
  readonly believed: readonly Backend[];
  readonly rotation: RotationOptions;
  readonly context: ResolveContext;
  readonly problems: Set<string>;
  readonly check: CheckSettings | undefined;
  readonly checked: Map<PlaceKey, CheckTarget>;
}): readonly ServiceTarget[] {
  const { port, address, believed, rotation, context, problems, check, checked } = from;
  const places: Place[] = [];
  const without = new Map<string, boolean>();
  for (const backend of believed) {
    if (backend.address.family !== address.family) continue;
    const ports = new Set(matchingPorts(port, backend.ports).map((each) => each.port));
    without.set(backend.cluster, (without.get(backend.cluster) ?? true) && ports.size === 0);
    if (ports.size > 0) backend.matched = true;
    if (backend.condition === 'not-ready') continue;
    const { cluster, unreachable, weight } = backend;
    const terminating = backend.condition === 'terminating';
    for (const number of ports) {
      const failure = check && failureOf({ backend, protocol: port.protocol, port: number, check, checked, context });
      backend.failure ??= failure;
      places.push({
        cluster,
        unreachable,
        weight,
        terminating,
        unhealthy: failure !== undefined,
        backend,
        port: number,
      });
    }
  }
  for (const [cluster, none] of without)
    if (none)
      problems.add(`${cluster} has no backend for port ${port.name === '' ? '' : `${port.name}/`}${port.protocol}`);
  const chosen = inRotation(places, rotation);
  if (chosen.length > MAX_TARGETS)
    problems.add(`${chosen.length} backends are more than ${MAX_TARGETS}: this machine uses a share of them`);
  const score = (place: Place): string => `${place.backend.text} ${place.port}`;
  return shareOf(chosen, MAX_TARGETS, score, context.settings.machine).map(({ backend, port: number, weight }) => {
    backend.serving = true;
    return { address: backend.address, port: number, weight };
  });
}

/** Nothing leads to them but their names; who may be connected to is the same question. */
function serveByName(from: {
  readonly believed: readonly Backend[];
  readonly rotation: RotationOptions;
  readonly context: ResolveContext;
  readonly check: CheckSettings | undefined;
  readonly checked: Map<PlaceKey, CheckTarget>;
  readonly problems: Set<string>;
}): NamedBackend[] {
  const { believed, rotation, context, check, checked, problems } = from;
  const candidates = believed.flatMap((backend) => {
    const { condition, cluster, unreachable, weight } = backend;
    backend.matched = true;
    if (condition === 'not-ready') return [];
    // A name has no port: one that does not answer is enough.
    for (const { protocol, port } of check === undefined ? [] : backend.ports)
      if (port !== 0) backend.failure ??= check && failureOf({ backend, protocol, port, check, checked, context });
    const unhealthy = backend.failure !== undefined;
    return [{ cluster, unreachable, weight, unhealthy, terminating: condition === 'terminating', backend }];
  });
  const chosen = inRotation(candidates, rotation);
  if (chosen.length > MAX_NAMED)
    problems.add(`${chosen.length} backends are more than ${MAX_NAMED}: the name leads to a share of them`);
  return shareOf(chosen, MAX_NAMED, ({ backend }) => backend.text, context.settings.machine).map(({ backend }) => {
    backend.serving = true;
    const { address, cluster, ports, hostname } = backend;
    return { address, cluster, ports, hostname };
  });
}

/** Puts a port of a backend on the list of what is checked. @returns why it fails */
function failureOf(from: {
  readonly backend: Backend;
  readonly protocol: string;
  readonly port: number;
  readonly check: CheckSettings;
  readonly checked: Map<PlaceKey, CheckTarget>;
  readonly context: ResolveContext;
}): string | undefined {
  const { backend, check, checked, context } = from;
  const protocol = protocolOf(from);
  // Whether a UDP or SCTP port answers can be told only by whoever speaks its protocol.
  if (check.port === undefined && protocol !== 6) return undefined;
  const place: PlaceKey = `${backend.text} ${protocol} ${from.port}`;
  if (!checked.has(place)) checked.set(place, { place, address: backend.address, port: check.port ?? from.port });
  return context.failure(place);
}

function stateOf(backend: Backend, { affinity }: RotationOptions): BackendState {
  const { cluster, text, ports, unreachable, serving, matched, weight, condition, failure } = backend;
  const shown = { cluster, address: text, ports, serving };
  const last = serving ? ', and nothing better is left' : '';
  if (condition === 'not-ready')
    return { ...shown, state: 'not-ready', reason: `${cluster} says that it is not ready` };
  if (unreachable) return { ...shown, state: 'unreachable', reason: `${cluster} is lost${last}` };
  if (failure !== undefined) return { ...shown, state: 'unhealthy', reason: `check failed: ${failure}${last}` };
  if (condition === 'terminating')
    return { ...shown, state: 'terminating', reason: `${cluster} says that it is going away${last}` };
  if (serving) return { ...shown, state: 'active', reason: undefined };
  const reason = !matched
    ? 'no frontend leads to its ports'
    : weight === 0
      ? `the weight of ${cluster} is 0`
      : affinity === 'none'
        ? 'not in the share of this machine'
        : `affinity ${affinity}`;
  return { ...shown, state: 'standby', reason };
}

/** Ports that go by one name and protocol and differ in their number: clients of one cluster cannot just go to another. */
function disagreements(pool: Pool): string[] {
  const seen = new Map<string, Map<number, string>>();
  for (const { cluster, frontends } of pool.members) {
    for (const ports of frontends.values()) {
      for (const { name, protocol, port } of ports) {
        const key = `${name === '' ? 'the unnamed port' : `port ${name}`}/${protocol}`;
        const numbers = seen.get(key) ?? new Map<number, string>();
        if (!numbers.has(port)) numbers.set(port, cluster);
        seen.set(key, numbers);
      }
    }
  }
  return [...seen]
    .filter(([, numbers]) => new Set(numbers.values()).size > 1)
    .map(([key, numbers]) => `${key} is ${[...numbers].map(([port, cluster]) => `${port} in ${cluster}`).join(', ')}`);
}
