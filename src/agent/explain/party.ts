import type { CandidatesRecord, PartyRecord } from '../../api/policy-types.ts';
import { parseSelector } from '../../api/selector.ts';
import { API_VERSION, type IdentityRecord } from '../../api/types.ts';
import { MeshError } from '../../core/errors.ts';
import { identity, isReserved, type NumericIdentity, RESERVED, RESERVED_LABELS } from '../../core/identity.ts';
import { type Address, addressBits, formatAddress, formatPrefix, type Prefix, parsePrefix } from '../../core/ip.ts';
import { type LabelSet, labelSet, labelTexts, parseLabel } from '../../core/labels.ts';
import type { Agent } from '../agent.ts';
import { identityViews } from '../views/list-views.ts';

/** One end of the flow that a question is about. */
export interface Party {
  readonly self: boolean;
  readonly address: Address | undefined;
  readonly identity: NumericIdentity;
  readonly labels: LabelSet;
  readonly record: PartyRecord;
}

/** What a selector fits when it does not fit one identity alone. */
export class Candidates {
  readonly record: CandidatesRecord;

  constructor(asked: string, items: readonly IdentityRecord[]) {
    const shown = items.slice(0, MAX_CANDIDATES);
    this.record = { apiVersion: API_VERSION, kind: 'PolicyCandidates', asked, count: items.length, items: shown };
  }
}

const MAX_CANDIDATES = 100;

/** Throws MeshError API-QUESTION. */
export function findParty(agent: Agent, asked: string): Party | Candidates {
  const text = asked.trim();
  if (text === 'self' || text === agent.config.name) return ownParty(agent, asked, undefined);
  if (/^[0-9]{1,10}$/.test(text)) return partyOfIdentity(agent, asked, Number(text));
  const prefix = parsePrefix(text);
  if (prefix !== undefined) return partyOfPrefix(agent, asked, prefix);
  return partyOfSelector(agent, asked, text);
}

function ownParty(agent: Agent, asked: string, address: Address | undefined): Party {
  const registered = agent.registration?.registered;
  const labels = registered?.labels ?? labelSet([parseLabel('reserved:init')]);
  const number = registered?.identity ?? RESERVED.init;
  const shown = address ?? agent.machine.ipv4 ?? agent.machine.ipv6;
  return {
    self: true,
    address,
    identity: number,
    labels,
    record: {
      asked,
      self: true,
      name: agent.config.name,
      ...(shown !== undefined && { address: formatAddress(shown) }),
      identity: number,
      labels: labelTexts(labels),
      source: 'local',
      ...(registered !== undefined && { cluster: registered.cluster.name }),
      ...freshness(agent, registered?.cluster.name),
      ...(registered === undefined && { note: 'this machine is not registered: no policy selects it yet' }),
    },
  };
}

function partyOfIdentity(agent: Agent, asked: string, value: number): Party {
  const number = identity(value);
  if (number === agent.registration?.registered?.identity) return ownParty(agent, asked, undefined);
  const labels = labelsOf(agent, number);
  const cluster = agent.tables.identities.get(number)?.cluster;
  if (labels === undefined)
    throw new MeshError('API-QUESTION', `identity ${value} is not known: it has the policy of every unknown identity`);
  const local = agent.model.labelsOf(number) !== undefined && cluster === undefined && !isReserved(number);
  return {
    self: false,
    address: undefined,
    identity: number,
    labels,
    record: {
      asked,
      self: false,
      identity: number,
      labels: labelTexts(labels),
      source: cluster !== undefined ? sourceOf(agent, cluster) : local ? 'policy' : 'reserved',
      ...(cluster !== undefined && { cluster }),
      ...freshness(agent, cluster),
    },
  };
}

function partyOfPrefix(agent: Agent, asked: string, prefix: Prefix): Party {
  const address: Address = { family: prefix.family, words: prefix.words };
  const text = formatAddress(address);
  if (agent.machine.addresses.some((each) => formatAddress(each) === text)) return ownParty(agent, asked, address);
  const entry = agent.tables.ipcache.lookup(address);
  if (entry?.origin.source === 'local') return ownParty(agent, asked, address);
  const number = entry?.identity ?? worldOf(agent, address);
  const labels = labelsOf(agent, number) ?? [];
  const cluster = entry === undefined || entry.origin.cluster === '' ? undefined : entry.origin.cluster;
  const names = agent.namesOf(address);
  const notes = [
    ...(prefix.bits === addressBits(prefix.family)
      ? []
      : [`${text} stands for the prefix: other addresses in it may be somebody else's`]),
    ...(labels.length === 0 ? [`the labels of identity ${number} are not known (yet)`] : []),
    ...(entry === undefined || entry.others.length === 0
      ? []
      : [
          `also claimed by ${entry.others.map(({ origin, identity: id }) => `${origin.cluster || origin.source} (identity ${id})`).join(', ')}`,
        ]),
  ];
  return {
    self: false,
    address,
    identity: number,
    labels,
    record: {
      asked,
      self: false,
      address: text,
      ...(entry !== undefined && { prefix: formatPrefix(entry.prefix) }),
      identity: number,
      labels: labelTexts(labels),
      source: entry?.origin.source ?? 'reserved',
      ...(cluster !== undefined && { cluster }),
      ...(names.length > 0 && { names }),
      ...freshness(agent, cluster),
      ...(notes.length > 0 && { note: notes.join('; ') }),
    },
  };
}

function partyOfSelector(agent: Agent, asked: string, text: string): Party | Candidates {
  let matches: (labels: readonly string[]) => boolean;
  try {
    matches = parseSelector(text);
  } catch {
    throw new MeshError(
      'API-QUESTION',
      `${JSON.stringify(asked)} is no address, number, name of this machine or selector`,
    );
  }
  const own = agent.registration?.registered;
  if (own !== undefined && matches(labelTexts(own.labels))) {
    // The own identity counts once, and only when nothing else fits: others may have it too.
    const others = [...identityViews(agent)].filter((each) => each.id !== own.identity && matches(each.labels));
    return others.length === 0
      ? ownParty(agent, asked, undefined)
      : new Candidates(
          asked,
          [...identityViews(agent)].filter((each) => matches(each.labels)),
        );
  }
  const found = [...identityViews(agent)].filter((each) => matches(each.labels));
  const [only] = found;
  if (found.length > 1) return new Candidates(asked, found);
  if (only === undefined) throw new MeshError('API-QUESTION', `no identity has the labels ${JSON.stringify(text)}`);
  return { ...partyOfIdentity(agent, asked, only.id) };
}

/** Whose word it is, and whether that somebody is in touch. Without a cluster it is our own word. */
function freshness(agent: Agent, cluster: string | undefined): { readonly fresh: boolean; readonly since?: number } {
  const found = cluster === undefined ? undefined : agent.mesh.list().find((each) => each.cluster.name === cluster);
  if (found === undefined || found.store.status.state === 'connected') return { fresh: true };
  return { fresh: false, since: found.store.status.since };
}

function sourceOf(agent: Agent, cluster: string): string {
  return agent.mesh.joined?.name === cluster ? 'kvstore' : 'clustermesh';
}

export function worldOf(agent: Agent, address: Address): NumericIdentity {
  if (!agent.machine.dualStack) return RESERVED.world;
  return address.family === 4 ? RESERVED.worldIpv4 : RESERVED.worldIpv6;
}

function labelsOf(agent: Agent, number: NumericIdentity): LabelSet | undefined {
  const known = agent.tables.identities.get(number)?.labels ?? agent.model.labelsOf(number);
  if (known !== undefined) return known;
  const reserved = RESERVED_LABELS.get(number);
  return reserved === undefined ? undefined : labelSet(reserved.map(parseLabel));
}
