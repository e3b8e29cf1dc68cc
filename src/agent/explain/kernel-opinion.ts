import type { KernelOpinionRecord } from '../../api/policy-types.ts';
import type { KernelPolicyRecord } from '../../api/types.ts';
import { messageOf } from '../../core/errors.ts';
import type { NumericIdentity } from '../../core/identity.ts';
import type { KernelPolicyRow } from '../../datapath/datapath.ts';
import { decidingRow, judge } from '../../datapath/judge.ts';
import type { PolicyRow, Protocol } from '../../policy/result.ts';
import type { Agent } from '../agent.ts';
import { kernelPolicyView } from '../views/list-views.ts';
import { type AskedPort, portsWord } from './question.ts';

export interface KernelQuestion {
  readonly direction: 'ingress' | 'egress';
  readonly identity: NumericIdentity;
  readonly port: AskedPort | undefined;
  /** It is decided before the rows of policies are asked. */
  readonly settled: boolean;
}

const MAX_ROWS = 200;

/** Asks the kernel for the rows of an identity, and compares them with what is desired. Never throws. */
export async function kernelOpinion(agent: Agent, question: KernelQuestion): Promise<KernelOpinionRecord> {
  if (agent.datapath.name === 'none') return { state: 'none', text: '`datapath: none`: nothing is enforced', rows: [] };
  let rows: KernelPolicyRow[];
  try {
    rows = await agent.datapath.dumpPolicy();
  } catch (error) {
    return { state: 'unread', text: `the kernel could not be asked: ${messageOf(error)}`, rows: [] };
  }
  const own = question.settled ? [] : rowsOf(rows, question);
  const found =
    question.port === undefined ? own : [decidingRow(own, question.port)].filter((row) => row !== undefined);
  const agrees = question.port === undefined ? sameRows(agent, question, own) : sameVerdict(agent, question, found[0]);
  return { ...stateOf(agent, { question, agrees, row: found[0] }), rows: found.slice(0, MAX_ROWS).map(kernelRow) };
}

/** Of the class of the identity; of the class of all others when it has none of its own. */
function rowsOf(rows: readonly KernelPolicyRow[], { direction, identity }: KernelQuestion): KernelPolicyRow[] {
  const there = rows.filter((row) => row.direction === direction);
  // Thousands of rows may share a list of ten thousand members: each list is looked through once.
  const known = new Map<readonly number[], boolean>();
  const own = there.filter(({ identities }) => {
    const holds = known.get(identities) ?? identities.includes(identity);
    known.set(identities, holds);
    return holds;
  });
  return own.length > 0 ? own : there.filter(({ identities }) => identities.length === 0);
}

/** A class may have tens of thousands of members: whoever asks about one of them does not want the list. */
function kernelRow(row: KernelPolicyRow): KernelPolicyRecord {
  return kernelPolicyView({ ...row, identities: [] });
}

/** What the kernel does with a packet by a row of it: without one it is denied, and an audited denial passes. */
function passes(agent: Agent, row: KernelPolicyRow | undefined): boolean {
  if (row === undefined) return agent.config.audit;
  return row.verdict === 'allow' || row.audit === true;
}

function sameVerdict(agent: Agent, question: KernelQuestion, row: KernelPolicyRow | undefined): boolean {
  const { direction, identity, port } = question;
  if (port === undefined || question.settled) return true;
  const wanted = judge(agent.model.resolved[direction], { identity, ...port });
  return passes(agent, row) === (agent.config.audit || wanted === 'allow');
}

/** At both ends of every row, desired or held, and where none matches: in between nothing changes. */
function sameRows(agent: Agent, question: KernelQuestion, own: readonly KernelPolicyRow[]): boolean {
  const { direction, identity } = question;
  const wanted: readonly PolicyRow[] = agent.model.resolved[direction].classOf(identity).rows;
  return [...wanted, ...own].every((place) =>
    [place.first, place.last].every((number) => {
      const port = { protocol: place.protocol as Protocol, port: number };
      return sameVerdict(agent, { ...question, port }, decidingRow(own, port));
    }),
  );
}

interface Compared {
  readonly question: KernelQuestion;
  readonly agrees: boolean;
  readonly row: KernelPolicyRow | undefined;
}

function stateOf(agent: Agent, compared: Compared): Pick<KernelOpinionRecord, 'state' | 'text'> {
  const { status } = agent.datapath;
  if (!agent.reconciler.opened) {
    const missing = agent.readiness.missing()[0] ?? 'starting';
    return { state: 'unapplied', text: `the rules of the last run are in force: waiting for ${missing}` };
  }
  if (status.error !== undefined) {
    return { state: 'unapplied', text: `the last change is not applied: ${status.error.message}` };
  }
  if (compared.agrees) return { state: 'agrees', text: rowText(agent, compared) };
  if (!status.applied || agent.reconciler.lagMs > 0) {
    return { state: 'unapplied', text: 'a change is on its way to the kernel: ask again in a moment' };
  }
  return { state: 'differs', text: `the kernel decides otherwise: ${rowText(agent, compared)}` };
}

function rowText(agent: Agent, { question, row }: Compared): string {
  if (question.settled) return 'its rules let no policy decide on this';
  if (question.port === undefined) return 'the rows of this identity are there';
  if (row === undefined) {
    const { packets } = agent.datapath.status.denied[question.direction];
    return `no row matches, so it is denied (${question.direction} denied ${packets} packets in all)`;
  }
  const verdict = row.audit === true ? 'reports a denial and lets pass' : row.verdict === 'allow' ? 'allows' : 'denies';
  return `the row ${portsWord(row)} ${verdict}: ${row.packets} packets, ${row.bytes} bytes so far`;
}
