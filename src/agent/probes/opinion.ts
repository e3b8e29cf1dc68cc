import { type NumericIdentity, RESERVED } from '../../core/identity.ts';
import type { Address } from '../../core/ip.ts';
import { judge } from '../../datapath/judge.ts';
import { PROTOCOL } from '../../policy/result.ts';
import type { Agent } from '../agent.ts';
import { always } from '../explain/always.ts';
import { worldOf } from '../explain/party.ts';
import type { AskedPort } from '../explain/question.ts';
import type { ProbeKind } from './results.ts';
import type { Target } from './targets.ts';

const ECHO = { 4: { protocol: PROTOCOL.icmp, port: 8 }, 6: { protocol: PROTOCOL.icmpv6, port: 128 } } as const;
const RULES_SHOWN = 2;

/**
 * Why this machine's own policy does not let a probe out; undefined when it does. Probes are judged like any other
 * traffic, as on a Cilium node with its host firewall.
 */
export function blockedProbe(agent: Agent, target: Target, kind: ProbeKind): string | undefined {
  const port = portOf(agent, target.address, kind);
  return denial(agent, { direction: 'egress', address: target.address, port });
}

/** Probes of other nodes that are not let in, in words, each with the reason. */
export function refusedProbes(agent: Agent): string[] {
  const own = [agent.machine.ipv4, agent.machine.ipv6].filter((address) => address !== undefined);
  const ports: AskedPort[] = [
    { protocol: PROTOCOL.tcp, port: agent.config.health.port },
    ...own.map(({ family }) => ECHO[family]),
  ];
  return ports.flatMap((port) => {
    const why = denial(agent, { direction: 'ingress', address: undefined, port });
    const word = port.protocol === PROTOCOL.tcp ? `tcp/${port.port}` : 'ICMP echo';
    return why === undefined ? [] : [`${word} from remote nodes: ${why}`];
  });
}

function portOf(agent: Agent, address: Address, kind: ProbeKind): AskedPort {
  return kind === 'http' ? { protocol: PROTOCOL.tcp, port: agent.config.health.port } : ECHO[address.family];
}

/** A reason counts for so long, milliseconds: nodes of one identity have the same one. */
const FRESH_MS = 1000;
const known = new WeakMap<Agent, { readonly until: number; readonly answers: Map<string, string | undefined> }>();

function remembered(agent: Agent, key: string, work: () => string | undefined): string | undefined {
  const before = known.get(agent);
  const now = performance.now();
  const { until, answers } =
    before !== undefined && now < before.until ? before : { until: now + FRESH_MS, answers: new Map() };
  known.set(agent, { until, answers });
  if (!answers.has(key)) answers.set(key, work());
  return answers.get(key);
}

/** `address`: of the peer; without one it is any remote node. */
function denial(
  agent: Agent,
  flow: { readonly direction: 'ingress' | 'egress'; readonly address: Address | undefined; readonly port: AskedPort },
): string | undefined {
  const { direction, address, port } = flow;
  if (!agent.enforcing || agent.config.audit || agent.datapath.name === 'none') return undefined;
  const { border, overlay } = agent.desired;
  if (always({ direction, port, address, border, hasOverlay: overlay !== undefined })?.verdict === 'allow')
    return undefined;
  const identity =
    address === undefined
      ? RESERVED.remoteNode
      : (agent.tables.ipcache.lookup(address)?.identity ?? worldOf(agent, address));
  // What happens is quickly known, and why it does is not: thousands of nodes may fail together.
  if (judge(agent.model.resolved[direction], { identity, ...port }) === 'allow') return undefined;
  return remembered(agent, `${direction} ${identity} ${port.protocol} ${port.port}`, () =>
    reasonOf(agent, { direction, identity, port }),
  );
}

function reasonOf(
  agent: Agent,
  flow: {
    readonly direction: 'ingress' | 'egress';
    readonly identity: NumericIdentity;
    readonly port: AskedPort;
  },
): string | undefined {
  const { direction, identity, port } = flow;
  const said = agent.model.explain({ direction, identity, ...port });
  if (said.verdict === 'allow' || said.audit) return undefined;
  const rules = [...new Set(said.rules.map(({ policy }) => policy))].slice(0, RULES_SHOWN).join(', ');
  const by = rules === '' ? '' : ` (${rules})`;
  return said.reason === 'denied-by-rule'
    ? `${direction} policy denies it${by}`
    : `no ${direction} policy allows it${by}`;
}
