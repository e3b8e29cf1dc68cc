import type { LabCluster } from './mesh-lab.ts';
import type { Pod } from './topology.ts';
import { nodeValue } from './values.ts';

/** Identity of other nodes; what a router sends carries it. */
const REMOTE_NODE = 6;
const HOST = 99;

/** Gives the node of a cluster a router address behind its tunnel, as every Cilium node has one, and announces it. */
export async function addRouter(cluster: LabCluster): Promise<Pod> {
  const { node, facts } = cluster;
  const router = node.pod(`router-${facts.id}`, HOST);
  node.identify(router, REMOTE_NODE);
  await announceNode(cluster, router.ipv4);
  return router;
}

/** Announces the node anew; `range4` in place of its own. */
export async function announceNode(cluster: LabCluster, router: string, range4?: string): Promise<void> {
  const { node, facts } = cluster;
  const { place } = node;
  const value = nodeValue({
    name: place.label,
    cluster: facts.name,
    clusterId: facts.id,
    addresses: [
      { Type: 'InternalIP', IP: place.ipv4 },
      { Type: 'InternalIP', IP: place.ipv6 },
      { Type: 'CiliumInternalIP', IP: router },
    ],
    range4: range4 ?? node.range4,
    range6: node.range6,
  });
  await facts.set('nodes', place.label, value);
}
