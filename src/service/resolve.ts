import { type Address, parseAddress } from '../core/ip.ts';
import type { ServicePort } from '../kvstore/codec/service.ts';
import { type BackendState, backendsOf, stateOf } from './backends.ts';
import type { AddressFacts, ClusterFacts, ServiceFact } from './facts.ts';
import { isHeadless, type NamedBackend } from './names.ts';
import type { Pool } from './pools.ts';
import { PortMatcher, protocolOf } from './ports.ts';
import {
  type CheckPlan,
  type FrontendKey,
  type FrontendView,
  MAX_TARGETS,
  type PlaceKey,
  type ServiceFrontend,
  type ServiceTarget,
} from './result.ts';
import type { RotationOptions } from './rotation.ts';
import { checkOf, type ServiceSettings } from './settings.ts';
import { type Choice, namedBackendsOf, targetsOf } from './targets.ts';

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

/** Of all frontend ports of a service: 32 of them may have as many targets as there can be. */
const MAX_ALL_TARGETS = 32 * MAX_TARGETS;

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
  const choice: Choice = {
    ...{ believed, rotation, context, problems, check, checked: new Map() },
    matcher: new PortMatcher(),
    limit: limitOf(pool),
  };
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
        const portKey = portKeyOf(address, port);
        const known = byPort.get(portKey) ?? targetsOf(choice, { port, address });
        byPort.set(portKey, known);
        inForce.set(key, { address, protocol, port: port.port, sticky: settings.sticky.has(name), targets: known });
      }
    }
  }
  const headless = isHeadless(pool) ? namedBackendsOf(choice) : undefined;
  for (const problem of [...disagreements(pool), ...excesses(pool)]) problems.add(problem);
  return {
    affinity: rotation.affinity,
    inForce,
    frontends,
    backends: [...believed.map((backend) => stateOf(backend, rotation.affinity)), ...refused],
    headless,
    problems: [...problems],
    beyond: pool.members.reduce((sum, { backends }) => sum + Math.max(0, backends.size - MAX_TARGETS), 0),
    plan: check && { check, targets: choice.checked },
  };
}

/** Frontend ports that have this in common lead to the same targets. */
function portKeyOf({ family }: Address, { protocol, name }: ServicePort): string {
  return `${family} ${protocol} ${name}`;
}

/** A service of many ports and many backends must not have the product of both. */
function limitOf({ members }: Pool): number {
  const keys = new Set<string>();
  for (const { frontends } of members)
    for (const [text, ports] of frontends) {
      const address = parseAddress(text);
      if (address !== undefined) for (const port of ports) keys.add(portKeyOf(address, port));
    }
  return Math.min(MAX_TARGETS, Math.floor(MAX_ALL_TARGETS / Math.max(1, keys.size)));
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

function excesses({ members }: Pool): string[] {
  return members
    .filter(({ backends }) => backends.size > MAX_TARGETS)
    .map(
      ({ cluster, backends: { size } }) =>
        `${size} backends of ${cluster} are more than ${MAX_TARGETS}: this machine uses a share of them`,
    );
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
