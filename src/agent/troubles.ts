import { ERROR_CODES, type ErrorCode } from '../core/errors.ts';
import { formatPrefix } from '../core/ip.ts';
import type { StoreStatus, StoreTrouble } from '../kvstore/store.ts';
import type { IpcacheEntry } from '../mesh/ipcache.ts';
import type { Agent } from './agent.ts';

/** An announcement that nobody answers for longer is a trouble, milliseconds. */
const UNANSWERED_MS = 60_000;
/** A store that is connected and not complete for longer is a trouble, milliseconds: a cluster's start fills it in less. */
const INCOMPLETE_MS = 10_000;
/** A start that takes longer says what it waits for, milliseconds. */
const WAITING_MS = 5_000;
/** Where a cluster keeps its facts and registrations (kvstore specification 2). */
const FACTS = 'cilium/state/';
const EXAMPLES = 3;
const MAX_CONFLICTS = 1000;
const CONFLICTS_MS = 4_000;
/** Told, and told to be over, by whoever reads the files. */
const FILE_CODES: readonly ErrorCode[] = ['MSH-CLUSTER-FILE', 'CFG-FILE'];
/** How soon after a change they are looked at, milliseconds: whoever watches `status` does not see the difference. */
const LOOK_MS = 200;
/** Of the time, looking takes so much at most: there may be thousands of policies. */
const REST = 19;

/**
 * Looks at what can be wrong and says so, or that it is over. Conditions only: what threw an error was told where it
 * happened.
 */
export class Troubles {
  readonly #agent: Agent;
  readonly #onLooked: () => void;
  readonly #lasting = new Lasting();
  #conflictsAt = Number.NEGATIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;
  #pauseMs = LOOK_MS;
  #closed = false;

  /** `onLooked` is called after each look. */
  constructor(agent: Agent, onLooked: () => void) {
    this.#agent = agent;
    this.#onLooked = onLooked;
  }

  /** Something changed: they are looked at soon, however often this is called. */
  soon(): void {
    if (!this.#closed) this.#timer ??= setTimeout(() => this.look(), this.#pauseMs);
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
  }

  /** `now`: monotonic milliseconds. */
  look(now = performance.now()): void {
    const start = performance.now();
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const agent = this.#agent;
    const lasts = (what: string, holds: boolean, ms: number): boolean => this.#lasting.lasts(what, { holds, ms, now });
    watchRegistration(agent, lasts);
    watchReadiness(agent, lasts);
    watchClusters(agent, lasts);
    watchNodes(agent);
    watchFacts(agent);
    watchPolicies(agent);
    watchServices(agent);
    watchDatapath(agent);
    // Looking for conflicts walks a table that may be long.
    if (now - this.#conflictsAt >= CONFLICTS_MS) {
      this.#conflictsAt = now;
      watchConflicts(agent);
    }
    this.#onLooked();
    this.#pauseMs = Math.max(LOOK_MS, REST * (performance.now() - start));
  }
}

/** Since when conditions hold, by a clock that nobody sets. */
class Lasting {
  readonly #since = new Map<string, number>();

  lasts(what: string, { holds, ms, now }: { holds: boolean; ms: number; now: number }): boolean {
    if (!holds) {
      this.#since.delete(what);
      return false;
    }
    const since = this.#since.get(what) ?? now;
    this.#since.set(what, since);
    return now - since > ms;
  }
}

type Lasts = (what: string, holds: boolean, ms: number) => boolean;

function watchRegistration(agent: Agent, lasts: Lasts): void {
  const { health, registration, machine, store } = agent;
  health.check(
    'kvstore',
    'AGT-KVSTORE',
    store === undefined ? { text: 'this machine joins nothing: no store is configured' } : undefined,
  );
  if (registration === undefined) return;
  health.check(
    'registration',
    'MSH-REFUSED',
    registration.refusal && { text: registration.refusal.message, place: registration.key },
  );
  // While the store is away nobody can answer: what was said before stays said.
  const silent = registration.unansweredSince !== undefined;
  if (!silent || store?.status.state === 'connected') {
    const again = registration.registered !== undefined;
    const trouble = {
      text: again
        ? 'the cluster no longer answers our registration; what it answered before stays in force'
        : (registration.waitingFor ?? 'no answer'),
      place: registration.key,
      severity: again ? ('warning' as const) : ('error' as const),
    };
    const unanswered = lasts('unanswered', silent, UNANSWERED_MS);
    health.check('registration', 'MSH-REGISTRATION', unanswered ? trouble : undefined);
  }
  const addressless = machine.ipv4 === undefined && machine.ipv6 === undefined;
  health.check('registration', 'AGT-ADDRESS', addressless ? { text: 'this machine has no usable address' } : undefined);
}

/** What the first enforcement waits for; before the machine is registered, the registration tells it. */
function watchReadiness({ health, registration, reconciler, readiness }: Agent, lasts: Lasts): void {
  const begun = reconciler.opened || registration?.registered === undefined;
  const missing = begun ? [] : readiness.missing();
  const waits = lasts('waiting', missing.length > 0, WAITING_MS);
  health.check('agent', 'AGT-WAITING', waits ? { text: missing.join('; '), severity: 'warning' } : undefined);
}

function watchClusters(agent: Agent, lasts: Lasts): void {
  const { health, mesh, store } = agent;
  // Once it is joined, the store is the cluster's.
  watchStore(health, 'kvstore', mesh.joined === undefined ? store?.status : undefined);
  // It may be that our certificate is worth nothing any more: the hub knows.
  if (store !== undefined && refusalOf(store.status) !== undefined) agent.renewal.doubt();
  const seen = new Set<string>();
  for (const followed of mesh.list()) {
    const { cluster } = followed;
    const { status } = followed.store;
    const subject = `cluster/${cluster.name}`;
    seen.add(subject);
    watchStore(health, subject, cluster.kind === 'cached' ? undefined : status);
    for (const code of ['MSH-CLUSTER-ID', 'MSH-CONFIG'] as const)
      health.check(subject, code, cluster.problem?.code === code ? { text: cluster.problem.message } : undefined);
    const waits = status.state === 'connected' && cluster.problem === undefined ? cluster.waitingFor : undefined;
    const incomplete = lasts(`incomplete ${subject}`, waits !== undefined, INCOMPLETE_MS);
    health.check(subject, 'MSH-INCOMPLETE', incomplete && waits !== undefined ? { text: waits } : undefined);
  }
  for (const subject of health.subjects()) {
    if (!subject.startsWith('cluster/') || seen.has(subject)) continue;
    lasts(`incomplete ${subject}`, false, INCOMPLETE_MS);
    // A file that is no good has no cluster either.
    for (const { code } of health.of(subject)) if (!FILE_CODES.includes(code)) health.clear(subject, code);
  }
}

/** The code of a store's last failure is more exact than that it is away; that it refuses us is more than both. */
function watchStore(health: Agent['health'], subject: string, status: StoreStatus | undefined): void {
  const away = status !== undefined && (status.state !== 'connected' || !status.hasQuorum);
  const failure = away ? (refusalOf(status) ?? status.lastFailure) : status && refusalOf(status);
  if (status === undefined || failure === undefined) {
    health.settle(subject, 'KVS-', undefined);
    return;
  }
  const code = codeOf(failure.code, 'KVS-LOST');
  health.settle(subject, 'KVS-', { code, text: failure.message, place: status.endpoints.join(', ') });
}

/** A store that answers, and refuses what everybody needs who may read it: facts, and the own registration. */
function refusalOf({ troubles }: StoreStatus): StoreTrouble | undefined {
  return troubles.find(({ code, subject }) => code === 'KVS-AUTH' && subject.includes(` ${FACTS}`));
}

/** One record for each cluster, however many of its nodes are silent. */
function watchNodes({ health, nodeHealth, mesh }: Agent): void {
  const silent = nodeHealth?.silent();
  for (const { cluster } of mesh.list()) {
    const found = silent?.get(cluster.name);
    const text =
      found &&
      `${found.silent} of ${found.nodes} node${found.nodes === 1 ? ' does' : 's do'} not answer probes: ${found.examples.join('; ')}`;
    health.check(
      `cluster/${cluster.name}`,
      'MSH-UNREACHABLE',
      text === undefined ? undefined : { text, severity: 'warning' },
    );
  }
}

function watchFacts(agent: Agent): void {
  const { health, tables, desired } = agent;
  const refused = tables.quarantine.size;
  const first = tables.quarantine.list()[0];
  health.check(
    'facts',
    'MSH-QUARANTINE',
    refused === 0
      ? undefined
      : {
          text: `${refused} value${refused === 1 ? ' was' : 's were'} refused`,
          place: first?.key,
          severity: 'warning',
        },
  );
  const unrouted = desired.routes.refused;
  health.check(
    'overlay',
    'AGT-ROUTE',
    unrouted.length === 0
      ? undefined
      : {
          text: `${unrouted.length} range${unrouted.length === 1 ? ' is' : 's are'} not routed: ${unrouted.slice(0, EXAMPLES).join('; ')}`,
          severity: 'warning',
        },
  );
}

function watchConflicts({ health, tables }: Agent): void {
  const conflicts = tables.ipcache.conflicts(MAX_CONFLICTS);
  const trouble =
    conflicts.length === 0 ? undefined : ({ text: conflictText(conflicts), severity: 'warning' } as const);
  health.check('facts', 'MSH-CONTESTED', trouble);
}

function conflictText(conflicts: readonly IpcacheEntry[]): string {
  const examples = conflicts.slice(0, EXAMPLES).map(({ prefix, origin, others }) => {
    const losers = [...new Set(others.map((other) => other.origin.cluster))].filter((name) => name !== origin.cluster);
    return `${formatPrefix(prefix)} (in force: ${origin.cluster}; also: ${losers.join(', ')})`;
  });
  const count = conflicts.length === MAX_CONFLICTS ? `${MAX_CONFLICTS} or more` : `${conflicts.length}`;
  return `announced by several clusters: ${count} address${conflicts.length === 1 ? '' : 'es'}: ${examples.join('; ')}`;
}

function watchPolicies(agent: Agent): void {
  const wrong = agent.repository
    .list()
    .filter(({ state }) => state === 'invalid' || state === 'last-good' || state === 'shadowed');
  const first = wrong.find(({ state }) => state !== 'shadowed') ?? wrong[0];
  agent.health.check(
    'policies',
    'AGT-POLICY',
    first === undefined
      ? undefined
      : {
          text: `${first.name}: ${first.state}: ${first.messages[0] ?? ''}${wrong.length > 1 ? ` (and ${wrong.length - 1} more)` : ''}`,
          place: first.source,
          // One of them is in force, and which is fixed.
          ...(wrong.every(({ state }) => state === 'shadowed') && { severity: 'warning' as const }),
        },
  );
}

function watchServices({ health, services, datapath, config }: Agent): void {
  const { enabled } = config.services;
  const { problems } = services.model;
  const examples = [...problems.entries()].slice(0, EXAMPLES).map(([name, [first]]) => `${name}: ${first}`);
  const more = problems.size > EXAMPLES ? ` (and ${problems.size - EXAMPLES} more services)` : '';
  health.check(
    'services',
    'MSH-SERVICE',
    enabled && examples.length > 0 ? { text: `${examples.join('; ')}${more}`, severity: 'warning' } : undefined,
  );
  const lost = [...services.lost].sort();
  health.check(
    'services',
    'MSH-SERVICE-LOST',
    enabled && lost.length > 0
      ? { text: `not reachable for longer than the grace: ${lost.join(', ')}`, severity: 'warning' }
      : undefined,
  );
  health.check('services', 'MSH-SERVICE-CHECK', enabled ? checkTrouble(services) : undefined);
  health.check(
    'services',
    'DPN-OLD',
    enabled && datapath.status.balances === false
      ? { text: 'services are not balanced: nft or the kernel cannot do the rules', severity: 'warning' }
      : undefined,
  );
}

function checkTrouble({ model, checks }: Agent['services']): { text: string; severity: 'warning' } | undefined {
  const failing = [...model.tallies()].filter(({ backends }) => backends.unhealthy > 0);
  const parts = failing
    .slice(0, EXAMPLES)
    .map(({ name, backends }) => `${name}: ${backends.unhealthy} of ${sum(Object.values(backends))} backends`);
  if (failing.length > EXAMPLES) parts.push(`and ${failing.length - EXAMPLES} more services`);
  if (checks.unchecked > 0) parts.push(`${checks.unchecked} backends are too many to be checked`);
  return parts.length === 0 ? undefined : { text: parts.join('; '), severity: 'warning' };
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, each) => total + each, 0);

function watchDatapath(agent: Agent): void {
  const { health, datapath, config } = agent;
  const { error, overlay } = datapath.status;
  health.settle('datapath/apply', '', error && { code: codeOf(error.code, 'DPN-APPLY'), text: error.message });
  const unled = overlay?.error;
  health.settle('overlay/apply', '', unled && { code: codeOf(unled.code, 'OVL-APPLY'), text: unled.message });
  health.check(
    'datapath',
    'AGT-UNENFORCED',
    config.datapath === 'none' ? { text: '`datapath: none`: nothing is enforced', severity: 'warning' } : undefined,
  );
}

function codeOf(code: string, otherwise: ErrorCode): ErrorCode {
  return Object.hasOwn(ERROR_CODES, code) ? (code as ErrorCode) : otherwise;
}
