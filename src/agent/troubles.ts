import { ERROR_CODES, type ErrorCode } from '../core/errors.ts';
import { formatPrefix } from '../core/ip.ts';
import type { IpcacheEntry } from '../mesh/ipcache.ts';
import type { Agent } from './agent.ts';

/** An announcement that nobody answers for longer is a trouble, milliseconds. */
const UNANSWERED_MS = 60_000;
/** A store that is connected and not complete for longer is a trouble, milliseconds: a cluster's start fills it in less. */
const INCOMPLETE_MS = 10_000;
const EXAMPLES = 3;
const MAX_CONFLICTS = 1000;
const CONFLICTS_MS = 4_000;

/**
 * Looks at what can be wrong and says so, or that it is over. Conditions only: what threw an error was told where it
 * happened.
 */
export class Troubles {
  readonly #agent: Agent;
  #conflictsAt = Number.NEGATIVE_INFINITY;

  constructor(agent: Agent) {
    this.#agent = agent;
  }

  look(): void {
    const agent = this.#agent;
    watchRegistration(agent);
    watchClusters(agent);
    watchFacts(agent);
    watchPolicies(agent);
    watchDatapath(agent);
    // Looking for conflicts walks a table that may be long.
    if (performance.now() - this.#conflictsAt < CONFLICTS_MS) return;
    this.#conflictsAt = performance.now();
    watchConflicts(agent);
  }
}

function watchRegistration(agent: Agent): void {
  const { health, registration, machine, store } = agent;
  if (registration === undefined) return;
  health.check(
    'registration',
    'MSH-REFUSED',
    registration.refusal && { text: registration.refusal.message, place: registration.key },
  );
  const since = registration.unansweredSince;
  const unanswered = store?.status.state === 'connected' && since !== undefined && Date.now() - since > UNANSWERED_MS;
  const again = registration.registered !== undefined;
  health.check(
    'registration',
    'MSH-REGISTRATION',
    unanswered
      ? {
          text: again
            ? 'the cluster no longer answers our registration; what it answered before stays in force'
            : (registration.waitingFor ?? 'no answer'),
          place: registration.key,
          severity: again ? 'warning' : 'error',
        }
      : undefined,
  );
  const addressless = machine.ipv4 === undefined && machine.ipv6 === undefined;
  health.check('registration', 'AGT-ADDRESS', addressless ? { text: 'this machine has no usable address' } : undefined);
}

/** The code of a store's last failure is more exact than that it is away. */
function watchClusters(agent: Agent): void {
  const seen = new Set<string>();
  const stores = new Map(
    agent.mesh.list().map(({ cluster, store }) => [`cluster/${cluster.name}`, { cluster, store }] as const),
  );
  if (agent.store !== undefined && agent.mesh.joined === undefined) watchStore(agent, 'kvstore', agent.store.status);
  else agent.health.clear('kvstore');
  for (const [subject, { cluster, store }] of stores) {
    seen.add(subject);
    if (cluster.kind !== 'cached') watchStore(agent, subject, store.status);
    for (const code of ['MSH-CLUSTER-ID', 'MSH-CONFIG'] as const) {
      agent.health.check(subject, code, cluster.problem?.code === code ? { text: cluster.problem.message } : undefined);
    }
    const connected = store.status.state === 'connected' && Date.now() - store.status.since > INCOMPLETE_MS;
    const waits = connected && cluster.problem === undefined ? cluster.waitingFor : undefined;
    agent.health.check(subject, 'MSH-INCOMPLETE', waits === undefined ? undefined : { text: waits });
  }
  for (const { subject, code } of agent.health.list()) {
    // A file that is no good has no cluster either: its reader tells when that is over.
    if (subject.startsWith('cluster/') && !seen.has(subject) && code !== 'MSH-CLUSTER-FILE')
      agent.health.clear(subject, code);
  }
}

interface StoreFacts {
  readonly state: string;
  readonly hasQuorum: boolean;
  readonly endpoints: readonly string[];
  readonly lastFailure: { readonly code: string; readonly message: string } | undefined;
}

function watchStore(agent: Agent, subject: string, status: StoreFacts): void {
  const failure = status.lastFailure;
  const away = status.state !== 'connected' || !status.hasQuorum;
  if (!away || failure === undefined) {
    clearStore(agent, subject);
    return;
  }
  const code = failure.code in ERROR_CODES ? (failure.code as ErrorCode) : 'KVS-LOST';
  clearStore(agent, subject, code);
  agent.health.set(subject, { code, text: failure.message, place: status.endpoints.join(', ') });
}

function clearStore(agent: Agent, subject: string, except?: ErrorCode): void {
  for (const record of agent.health.list()) {
    if (record.subject === subject && record.code !== except && record.code.startsWith('KVS-'))
      agent.health.clear(subject, record.code);
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
  const first = wrong[0];
  agent.health.check(
    'policies',
    'AGT-POLICY',
    first === undefined
      ? undefined
      : {
          text: `${first.name}: ${first.state}: ${first.messages[0] ?? ''}${wrong.length > 1 ? ` (and ${wrong.length - 1} more)` : ''}`,
          place: first.source,
        },
  );
}

function watchDatapath(agent: Agent): void {
  const { health, datapath, config } = agent;
  const { error } = datapath.status;
  for (const record of health.list()) {
    if (record.subject === 'datapath/apply' && record.code !== error?.code) health.clear('datapath/apply', record.code);
  }
  if (error !== undefined) {
    const code = error.code in ERROR_CODES ? (error.code as ErrorCode) : 'DPN-APPLY';
    health.set('datapath/apply', { code, text: error.message });
  }
  health.check(
    'datapath',
    'AGT-UNENFORCED',
    config.datapath === 'none' ? { text: '`datapath: none`: nothing is enforced', severity: 'warning' } : undefined,
  );
}
