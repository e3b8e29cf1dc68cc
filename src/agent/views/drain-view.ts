import { API_VERSION, type DrainRecord, type OpenConnectionsRecord } from '../../api/types.ts';
import { MeshError, messageOf } from '../../core/errors.ts';
import { formatAddress } from '../../core/ip.ts';
import type { MachineService } from '../../kvstore/codec/machine-service.ts';
import type { Agent } from '../agent.ts';
import { countConnections } from '../live-connections.ts';

const NUMBERS = { TCP: 6, UDP: 17, SCTP: 132 } as const;

/** Takes this machine out of rotation, or back in. @throws MeshError AGT-DRAIN, AGT-STATE */
export async function setDrain(agent: Agent, draining: boolean): Promise<DrainRecord> {
  if (draining && agent.renewal.hubs.length === 0) throw new MeshError('AGT-DRAIN', 'this machine did not join a hub');
  await agent.serving.drain(draining);
  return drainView(agent);
}

export async function drainView(agent: Agent): Promise<DrainRecord> {
  const { drained, selecting } = agent.serving;
  const own = new Set([agent.machine.ipv4, agent.machine.ipv6].flatMap((each) => (each ? [formatAddress(each)] : [])));
  return {
    apiVersion: API_VERSION,
    kind: 'Drain',
    draining: drained !== undefined,
    ...(drained !== undefined && { since: drained }),
    services: [...selecting.keys()],
    published: publishedAt(agent, own),
    ...(await counted(agent, [...selecting.values()], own)),
  };
}

/** Services of the joined cluster that lead to an address of this machine: what every other cluster reads as well. */
function publishedAt({ tables, mesh }: Agent, own: ReadonlySet<string>): string[] {
  const joined = mesh.joined?.name;
  return [...tables.services.values()]
    .filter(({ cluster, backends }) => cluster === joined && [...own].some((address) => backends.has(address)))
    .map(({ namespace, name }) => `${namespace}/${name}`)
    .sort();
}

/** A kernel without connection tracking must not keep anybody from draining. */
async function counted(
  agent: Agent,
  services: readonly MachineService[],
  own: ReadonlySet<string>,
): Promise<Pick<DrainRecord, 'connections' | 'uncounted'>> {
  try {
    return { connections: await countsOf(agent, services, own) };
  } catch (error) {
    return { connections: null, uncounted: messageOf(error) };
  }
}

/** Throws NetlinkError. */
async function countsOf(
  agent: Agent,
  services: readonly MachineService[],
  own: ReadonlySet<string>,
): Promise<readonly OpenConnectionsRecord[]> {
  const ports = services.flatMap((service) => service.ports);
  if (ports.length === 0) return [];
  const wanted = ports.map(({ protocol, targetPort }) => ({ protocol: NUMBERS[protocol], port: targetPort }));
  const counts = await countConnections(agent.datapath, own, wanted);
  const found = new Map<string, OpenConnectionsRecord>();
  for (const { protocol, targetPort } of ports) {
    const count = counts.get(`${NUMBERS[protocol]} ${targetPort}`);
    if (count !== undefined) found.set(`${protocol} ${targetPort}`, { protocol, port: targetPort, count });
  }
  return [...found.values()];
}
