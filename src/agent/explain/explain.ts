import { setImmediate as nextTurn } from 'node:timers/promises';
import type {
  AlwaysRecord,
  ExplainAnswer,
  ExplainRequest,
  ExplanationRecord,
  JudgementRecord,
  PartyRecord,
} from '../../api/policy-types.ts';
import { API_VERSION } from '../../api/types.ts';
import { MeshError } from '../../core/errors.ts';
import { PROTOCOL } from '../../policy/result.ts';
import type { Agent } from '../agent.ts';
import { adviceFor } from './advice.ts';
import { always, conditions, insideDevice } from './always.ts';
import { type Judgement, judgement, RulePlaces } from './judgement.ts';
import { kernelOpinion } from './kernel-opinion.ts';
import { Candidates, findParty, type Party } from './party.ts';
import { type AskedPort, protocolWord, readPort } from './question.ts';
import { type ReadTexts, readTexts, Trial } from './trial.ts';

interface Question {
  readonly source: Party;
  readonly destination: Party;
  readonly direction: 'ingress' | 'egress';
  readonly machine: Party;
  readonly peer: Party;
  readonly port: AskedPort | undefined;
}

/** Answers `policy explain` from present facts. Changes nothing. Throws MeshError API-QUESTION. */
export async function explain(agent: Agent, request: ExplainRequest): Promise<ExplainAnswer> {
  const added = request.with === undefined ? undefined : readTexts(request.with);
  if (added?.findings.some(({ severity }) => severity === 'error') === true)
    return { apiVersion: API_VERSION, kind: 'PolicyValidation', ok: false, items: added.findings };
  const port = request.port === undefined ? undefined : readPort(request.port);
  const source = findParty(agent, request.source);
  if (source instanceof Candidates) return source.record;
  const destination = findParty(agent, request.destination);
  if (destination instanceof Candidates) return destination.record;
  const question = questionOf({ source, destination, port });
  checkFamilies(question);
  return answer(agent, question, added);
}

function questionOf({ source, destination, port }: Pick<Question, 'source' | 'destination' | 'port'>): Question {
  if (!source.self && !destination.self)
    throw new MeshError(
      'API-QUESTION',
      'neither end is this machine: what two others say to each other is judged where they are, and not known here',
    );
  return source.self
    ? { source, destination, port, direction: 'egress', machine: source, peer: destination }
    : { source, destination, port, direction: 'ingress', machine: destination, peer: source };
}

function checkFamilies({ source, destination, port }: Question): void {
  const families = [source.address, destination.address].flatMap((each) => (each === undefined ? [] : [each.family]));
  if (new Set(families).size > 1)
    throw new MeshError('API-QUESTION', 'an IPv4 and an IPv6 address do not speak to each other');
  const [family] = families;
  if (family === 6 && port?.protocol === PROTOCOL.icmp)
    throw new MeshError('API-QUESTION', 'IPv6 addresses speak icmpv6: for an echo request ask icmpv6/128');
  if (family === 4 && port?.protocol === PROTOCOL.icmpv6)
    throw new MeshError('API-QUESTION', 'IPv4 addresses speak icmp: for an echo request ask icmp/8');
}

async function answer(agent: Agent, question: Question, added: ReadTexts | undefined): Promise<ExplanationRecord> {
  const { direction, machine, peer, port } = question;
  const places = new RulePlaces(agent);
  const said = judgement(agent.model, { direction, identity: peer.identity, port });
  const input = { direction, port, address: peer.address, border: agent.desired.border };
  const rule = insideRule(agent, question) ?? always({ ...input, hasOverlay: agent.desired.overlay !== undefined });
  const now = overruled(agent, places.record(said), rule);
  const denied = rule === undefined && now.verdict === 'deny';
  const notes = conditions({ ...input, hasOverlay: false });
  const kernel = await kernelOpinion(agent, { direction, identity: peer.identity, port, settled: rule !== undefined });
  // With a thousand policies each of the following takes tens of milliseconds: others get their turn between.
  await nextTurn();
  const flow = { direction, machine, peer, port };
  const advice = denied || now.audit ? adviceFor(agent, flow, said, places) : undefined;
  await nextTurn();
  const trial =
    added === undefined ? undefined : tryOut(agent, question, { before: now, objects: added.objects, rule });
  return {
    apiVersion: API_VERSION,
    kind: 'PolicyExplanation',
    direction,
    ...(port !== undefined && { protocol: protocolWord(port.protocol), port: port.port }),
    ...now,
    source: noted(question.source, question.source === machine ? notes : []),
    destination: noted(question.destination, question.destination === machine ? notes : []),
    ...(rule !== undefined && { always: rule }),
    kernel,
    ...(advice !== undefined && { advice }),
    ...(trial !== undefined && { trial }),
  };
}

/** Traffic inside the machine is not judged. */
function insideRule(agent: Agent, { direction, source, destination, peer }: Question): AlwaysRecord | undefined {
  const passes = (what: string): AlwaysRecord => ({
    direction,
    verdict: 'allow',
    what,
    why: 'traffic inside the machine is not judged',
  });
  if (source.self && destination.self) return passes('both ends are this machine');
  const device = insideDevice(agent.machine.devices, peer.address);
  return device === undefined ? undefined : passes(`the peer is behind ${device}, a device inside the machine`);
}

/** What counts in the end: first what holds in any case, then the audit of the whole machine. */
function overruled(agent: Agent, said: JudgementRecord, rule: AlwaysRecord | undefined): JudgementRecord {
  if (rule !== undefined) {
    const reason = rule.why === 'traffic inside the machine is not judged' ? 'inside' : 'always';
    return { verdict: rule.verdict, audit: false, reason, rules: [] };
  }
  const audits = (record: { readonly verdict: string; readonly audit: boolean }): boolean =>
    record.verdict === 'deny' && (record.audit || agent.config.audit);
  const passes = audits(said);
  const ports = said.ports?.map((each) => (audits(each) ? { ...each, verdict: 'allow' as const, audit: true } : each));
  return {
    ...said,
    ...(passes && { verdict: 'allow' as const }),
    audit: passes,
    ...(ports !== undefined && { ports }),
  };
}

function noted(party: Party, notes: readonly string[]): PartyRecord {
  const all = [...(party.record.note === undefined ? [] : [party.record.note]), ...notes];
  return all.length === 0 ? party.record : { ...party.record, note: all.join('; ') };
}

function tryOut(
  agent: Agent,
  { direction, peer, port }: Question,
  given: {
    readonly before: JudgementRecord;
    readonly objects: ReadTexts['objects'];
    readonly rule: AlwaysRecord | undefined;
  },
): NonNullable<ExplanationRecord['trial']> {
  const trial = new Trial(agent, peer, given.objects);
  const said: Judgement = judgement(trial.model, { direction, identity: trial.identity, port });
  const after = overruled(agent, new RulePlaces(agent, trial.files).record(said), given.rule);
  return { policies: trial.policies, before: given.before, after };
}
