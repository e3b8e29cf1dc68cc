import { formatAddress } from '../../core/ip.ts';
import type { NodeEvidence } from '../../doctor/mesh/reachability.ts';
import { type PingResult, ping } from '../../host/ping.ts';
import { type Node, nodeIp } from '../../kvstore/codec/node.ts';
import type { Agent } from '../agent.ts';

/** So many nodes are probed at most, as evenly over the clusters as can be. */
const SAMPLE = 12;
const ECHO_MS = 1000;
/** Sizes that are tried when full packets are lost: what networks in between commonly carry. */
const SIZES = [1400, 1280, 1000, 576] as const;

export interface OverlayEvidence {
  readonly nodes: readonly NodeEvidence[];
  /** How many there are. */
  readonly of: number;
}

/** Sends echo requests to nodes, beside the overlay and through it: the answers tell of both directions. */
export async function probeOverlay(agent: Agent, signal: AbortSignal): Promise<OverlayEvidence> {
  const others = [...agent.tables.nodes.values()].filter(({ name }) => name !== agent.config.name);
  const { device, mtu } = agent.datapath.status.overlay ?? {};
  // Without the device (`datapath: none`) addresses behind tunnels lead nowhere.
  const inner = agent.config.routing === 'native' || device !== undefined;
  const nodes = await Promise.all(sampleOf(others).map((node) => probeNode(node, { mtu: mtu ?? 0, inner, signal })));
  return { nodes: nodes.filter((node) => node !== undefined), of: others.length };
}

/** One of each cluster, then a second one of each, and so on. */
function sampleOf(nodes: readonly Node[]): Node[] {
  const queues = new Map<string, Node[]>();
  for (const node of nodes) {
    const queue = queues.get(node.cluster) ?? [];
    queues.set(node.cluster, queue);
    if (queue.length < SAMPLE) queue.push(node);
  }
  const found: Node[] = [];
  for (let row = 0; found.length < SAMPLE && row < SAMPLE; row++)
    for (const queue of queues.values()) {
      const node = queue[row];
      if (node !== undefined && found.length < SAMPLE) found.push(node);
    }
  return found;
}

async function probeNode(
  node: Node,
  way: { mtu: number; inner: boolean; signal: AbortSignal },
): Promise<NodeEvidence | undefined> {
  const own = nodeIp(node, 4) ?? nodeIp(node, 6);
  if (own === undefined) return undefined;
  const endpoint = formatAddress(own);
  const inner = way.inner ? innerAddress(node) : undefined;
  const echo = (address: string, packetBytes?: number): Promise<PingResult> =>
    ping({ address, timeoutMs: ECHO_MS, signal: way.signal, ...(packetBytes !== undefined && { packetBytes }) });
  const base = { cluster: node.cluster, name: node.name, endpoint };
  if (inner === undefined) return { ...base, direct: await echo(endpoint) };
  const [direct, small] = await Promise.all([echo(endpoint), echo(inner)]);
  if (small.outcome !== 'answered' || way.mtu === 0) return { ...base, direct, inner: { address: inner, small } };
  const result = await echo(inner, way.mtu);
  const lost = result.outcome === 'silent' || result.outcome === 'too-big';
  const works = lost
    ? await largestThatPasses(
        SIZES.filter((size) => size < way.mtu),
        (size) => echo(inner, size),
      )
    : undefined;
  const large = { bytes: way.mtu, result, ...(works !== undefined && { works }) };
  return { ...base, direct, inner: { address: inner, small, large } };
}

async function largestThatPasses(
  sizes: readonly number[],
  echo: (size: number) => Promise<PingResult>,
): Promise<number | undefined> {
  const results = await Promise.all(sizes.map((size) => echo(size)));
  return sizes.find((_, index) => results[index]?.outcome === 'answered');
}

/** An address of the node that is reached through its tunnel: the router's, or that of its health endpoint. */
function innerAddress({ addresses, healthAddresses }: Node): string | undefined {
  const routers = addresses.filter(({ type }) => type === 'CiliumInternalIP').map(({ address }) => address);
  const all = [...routers, ...healthAddresses];
  const found = all.find(({ family }) => family === 4) ?? all[0];
  return found === undefined ? undefined : formatAddress(found);
}
