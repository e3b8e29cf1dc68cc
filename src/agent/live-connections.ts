import type { KernelConnection } from '../datapath/connection.ts';
import type { Datapath } from '../datapath/datapath.ts';
import { connectionPeers, type LocalPort, openConnections } from '../host/connections.ts';

/**
 * Addresses (canonical text) that connections lead to at this moment. The eBPF data path has a table of its own, all others that
 * of connection tracking. Undefined where nobody knows, since the data path is not open yet. Throws NetlinkError, MeshError.
 */
export async function livePeers(datapath: Datapath, opened: boolean): Promise<ReadonlySet<string> | undefined> {
  if (datapath.name !== 'bpf') return connectionPeers();
  if (!opened) return undefined;
  return new Set((await datapath.dumpConnections()).filter(isLive).map(({ remote }) => remote.address));
}

/** As `openConnections` of host/connections.ts, whichever data path is in use. Throws NetlinkError, MeshError. */
export async function countConnections(
  datapath: Datapath,
  addresses: ReadonlySet<string>,
  ports: readonly LocalPort[],
): Promise<ReadonlyMap<string, number>> {
  if (datapath.name !== 'bpf') return openConnections(addresses, ports);
  const wanted = new Set(ports.map(({ protocol, port }) => `${protocol} ${port}`));
  const counts = new Map<string, number>();
  for (const connection of await datapath.dumpConnections()) {
    const { direction, protocol, local } = connection;
    const key = `${protocol} ${local.port}`;
    if (direction !== 'ingress' || !isLive(connection) || !addresses.has(local.address) || !wanted.has(key)) continue;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return counts;
}

function isLive({ state }: KernelConnection): boolean {
  return state !== 'closing';
}
