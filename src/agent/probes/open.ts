import { formatAddress } from '../../core/ip.ts';
import type { Metrics } from '../../observe/metrics.ts';
import type { Agent } from '../agent.ts';
import { exportProbes } from './metrics.ts';
import { NodeHealth } from './node-health.ts';
import { blockedProbe, refusedProbes } from './opinion.ts';

/** The probes of this agent; undefined when they are off. Nothing is opened before `run` and `answerOn`. */
export function openNodeHealth(agent: Agent, metrics: Metrics): NodeHealth | undefined {
  const { config, health, machine, tables } = agent;
  if (!config.health.enabled) return undefined;
  const trouble = (subject: string) => (text: string | undefined) =>
    health.check(subject, 'AGT-HEALTH', text === undefined ? undefined : { text, severity: 'warning' });
  const onFinding = exportProbes({
    metrics,
    source: () => ({ cluster: agent.registration?.registered?.cluster.name ?? '', name: config.name }),
    nodes: () => nodeHealth.list(),
  });
  const nodeHealth = new NodeHealth({
    config: config.health,
    *nodes() {
      for (const entry of tables.nodes.entries()) if (!agent.desired.isSelf(entry[1])) yield entry;
    },
    changed: tables.nodes.changed,
    targets: () => ({ families: machine.families, tunnel: config.routing === 'tunnel' }),
    blocked: (target, kind) => blockedProbe(agent, target, kind),
    refuses: () => refusedProbes(agent),
    onFinding,
    onEchoTrouble: trouble('health/echo'),
    onListenTrouble: trouble('health/listen'),
  });
  return nodeHealth;
}

/** The addresses on which a machine answers probes: its own in the mesh, and no other. */
export function answeringAddresses({ machine }: Agent): string[] {
  return [machine.ipv4, machine.ipv6].filter((address) => address !== undefined).map(formatAddress);
}
