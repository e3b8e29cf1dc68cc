import type { Address } from '../core/ip.ts';
import type { ServicePort } from '../kvstore/codec/service.ts';
import type { Backend } from './backends.ts';
import { MAX_NAMED, type NamedBackend } from './names.ts';
import { type PortMatcher, protocolOf } from './ports.ts';
import type { ResolveContext } from './resolve.ts';
import type { CheckTarget, PlaceKey, ServiceTarget } from './result.ts';
import { type Candidate, inRotation, type RotationOptions } from './rotation.ts';
import type { CheckSettings } from './settings.ts';
import { shareOf } from './share.ts';

/** What the targets of all frontends of a pool are chosen from, and what is found out on the way. */
export interface Choice {
  readonly believed: readonly Backend[];
  readonly rotation: RotationOptions;
  readonly context: ResolveContext;
  readonly problems: Set<string>;
  readonly matcher: PortMatcher;
  /** Targets of one frontend port; of more, this machine takes a share. */
  readonly limit: number;
  /** Undefined when the service is not checked. */
  readonly check: CheckSettings | undefined;
  /** What is to be checked. */
  readonly checked: Map<PlaceKey, CheckTarget>;
}

interface Place extends Candidate {
  readonly backend: Backend;
  readonly port: number;
}

/** Where a frontend port leads to. */
export function targetsOf(choice: Choice, { port, address }: { port: ServicePort; address: Address }): ServiceTarget[] {
  const { believed, rotation, context, problems, matcher, limit } = choice;
  const places: Place[] = [];
  const without = new Map<string, boolean>();
  for (const backend of believed) {
    if (backend.address.family !== address.family) continue;
    const ports = new Set(matcher.match(port, backend.ports).map((each) => each.port));
    without.set(backend.cluster, (without.get(backend.cluster) ?? true) && ports.size === 0);
    if (ports.size > 0) backend.matched = true;
    if (backend.condition === 'not-ready') continue;
    for (const number of ports) {
      const failure = failureOf(choice, backend, { protocol: port.protocol, port: number });
      places.push({ ...candidate(backend, failure), backend, port: number });
    }
  }
  for (const [cluster, none] of without)
    if (none)
      problems.add(`${cluster} has no backend for port ${port.name === '' ? '' : `${port.name}/`}${port.protocol}`);
  const chosen = inRotation(places, rotation);
  if (chosen.length > limit)
    problems.add(`${chosen.length} backends are more than ${limit}: this machine uses a share of them`);
  const score = (place: Place): string => `${place.backend.text} ${place.port}`;
  return shareOf(chosen, limit, score, context.settings.machine).map(({ backend, port: number, weight }) => {
    backend.serving = true;
    return { address: backend.address, port: number, weight };
  });
}

/** The same for a headless service. Nothing leads to them but their names; who may be connected to is the same question. */
export function namedBackendsOf(choice: Choice): NamedBackend[] {
  const { believed, rotation, context, problems, check } = choice;
  const candidates = believed.flatMap((backend) => {
    backend.matched = true;
    if (backend.condition === 'not-ready') return [];
    const ports = check === undefined ? [] : backend.ports.filter(({ port }) => port !== 0);
    // A name has no port: one that does not answer is enough. All are checked, whatever the first one says.
    const failures = ports.map((port) => failureOf(choice, backend, port));
    const failure = failures.find((each) => each !== undefined);
    return [{ ...candidate(backend, failure), backend }];
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

function candidate({ cluster, unreachable, weight, condition }: Backend, failure: string | undefined): Candidate {
  return { cluster, unreachable, weight, terminating: condition === 'terminating', unhealthy: failure !== undefined };
}

/** Puts a port of a backend on the list of what is checked. @returns why it fails */
function failureOf(
  { check, checked, context }: Choice,
  backend: Backend,
  end: Pick<ServicePort, 'protocol' | 'port'>,
): string | undefined {
  const protocol = protocolOf(end);
  // Whether a UDP or SCTP port answers can be told only by whoever speaks its protocol.
  if (check === undefined || (check.port === undefined && protocol !== 6)) return undefined;
  const place: PlaceKey = `${backend.text} ${protocol} ${end.port}`;
  if (!checked.has(place)) checked.set(place, { place, address: backend.address, port: check.port ?? end.port });
  const failure = context.failure(place);
  backend.failure ??= failure;
  return failure;
}
