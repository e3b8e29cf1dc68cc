import type { AdviceRecord, NearRuleRecord } from '../../api/policy-types.ts';
import type { NearRule } from '../../policy/model.ts';
import type { Agent } from '../agent.ts';
import type { Judgement, RulePlaces } from './judgement.ts';
import { judgement } from './judgement.ts';
import { portsWord } from './question.ts';
import { allowingPolicy, type WantedFlow } from './snippet.ts';
import { readTexts, Trial } from './trial.ts';

const MAX_POLICIES = 5;
const MAX_MESSAGES = 3;

/** For a denied flow: what would have to change. */
export function adviceFor(agent: Agent, flow: WantedFlow, said: Judgement, places: RulePlaces): AdviceRecord {
  const { direction, peer, port } = flow;
  const near =
    port === undefined
      ? { samePeer: [], samePort: [] }
      : agent.model.nearest({ direction, identity: peer.identity, ...port });
  const nearRule = (rule: NearRule): NearRuleRecord => ({
    ...places.rule(rule.ref),
    ports: rule.ports === undefined ? 'any' : rule.ports.map(portsWord).join(', '),
    peers: rule.peers,
  });
  const policy = triedPolicy(agent, flow);
  const missing = said.reason === 'default-deny' ? agent.model.defaultDenyOf(direction) : [];
  return {
    texts: [...reasonTexts(said, policy !== undefined), ...heldBackTexts(agent, direction), ...nameTexts(agent, flow)],
    defaultDeny: missing.map((ref) => places.rule(ref)),
    samePeer: near.samePeer.map(nearRule),
    samePort: near.samePort.map(nearRule),
    ...(policy !== undefined && { policy }),
  };
}

function reasonTexts({ reason }: Judgement, hasPolicy: boolean): string[] {
  if (reason === 'denied-by-rule') return ['A deny rule goes before every allow rule: it must be changed or removed.'];
  if (reason === 'needs-authentication')
    return ['The rule asks for mutual authentication, which this agent does not do: take it from the rule.'];
  return hasPolicy ? ['No rule allows it; the policy below would.'] : ['No rule allows it.'];
}

/** Rules that would perhaps allow it if the host could enforce them. */
function heldBackTexts(agent: Agent, direction: 'ingress' | 'egress'): string[] {
  const found = agent.repository
    .list()
    .filter((entry) => entry.selecting && entry.heldBack > 0 && entry.directions.includes(direction));
  const shown = found.slice(0, MAX_POLICIES).map(({ name, messages }) => {
    return `${name} has entries that the host cannot enforce: ${messages.slice(0, MAX_MESSAGES).join('; ')}`;
  });
  const more = found.length - shown.length;
  return more > 0 ? [...shown, `and so have ${more} more policies`] : shown;
}

function nameTexts(agent: Agent, { direction, peer }: WantedFlow): string[] {
  const world = peer.labels.some(({ source, key }) => source === 'reserved' && key.startsWith('world'));
  if (direction === 'ingress' || !world || !agent.model.wantsNames) return [];
  const names = peer.record.names ?? [];
  return names.length === 0
    ? [
        'Rules with toFQDNs allow an address once the machine has resolved a name to it: no answer with this address was seen.',
      ]
    : [`The address was learnt as ${names.join(', ')}.`];
}

/** Only what was tried is recommended. */
function triedPolicy(agent: Agent, flow: WantedFlow): string | undefined {
  const text = allowingPolicy(flow);
  if (text === undefined) return undefined;
  const { objects, findings } = readTexts([{ name: 'advice', text }]);
  if (findings.some(({ severity }) => severity === 'error')) return undefined;
  const trial = new Trial(agent, flow.peer, objects);
  const { direction, port } = flow;
  const said = judgement(trial.model, { direction, identity: trial.identity, port });
  return said.verdict === 'allow' ? text : undefined;
}
