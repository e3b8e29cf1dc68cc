import type { Command } from 'commander';
import type { AgentClient } from '../api/client.ts';
import type { NodeHealthRecord, NodeHealthSummary } from '../api/node-health-types.ts';
import { MeshError } from '../core/errors.ts';
import { sleep } from '../core/job.ts';
import { askAgent, SHOWS_AGENT } from './agent-socket.ts';
import { type Call, command, group, Option } from './command.ts';
import { EXIT, type ExitCode } from './exit-code.ts';
import { clusterOption, given } from './filters.ts';
import { connectivityCell, healthHead, nodeText } from './health-text.ts';
import { type Column, write, writeList } from './output.ts';

interface Options {
  readonly cluster?: string;
  readonly probe?: boolean;
  readonly failing?: boolean;
  readonly succinct?: boolean;
}

const POLL_MS = 100;
/** Thousands of nodes of which none answers take that long. */
const PROBE_MS = 600_000;

export function healthCommands(): Command {
  return group('health', 'Whether the nodes of the mesh reach each other', [status(), get()], 'status');
}

const probeOption = (): Option => new Option('--probe', 'probe all nodes now, and wait for it');

function status(): Command {
  return command<Options>({
    name: 'status',
    summary: 'Show whether the nodes answer: ICMP echo, and HTTP on the health port',
    details:
      'Host: the node itself, reached directly. Endpoint and Router: its addresses inside the overlay, reached through the tunnel. ' +
      'Blocked: the policy of this machine does not let the probe out. Exit code: 4 when a node does not answer.',
    examples: [
      ['health status', 'all nodes; `mesh-agent health` is the same'],
      ['health status --failing', 'those that do not answer'],
      ['health status --probe --succinct', 'probe now, one line per node'],
      ['health status -o json', 'for scripts'],
    ],
    shared: SHOWS_AGENT,
    options: [
      probeOption(),
      new Option('--failing', 'only nodes that are not reachable'),
      new Option('--succinct', 'one line per node'),
      clusterOption(),
    ],
    async run(call) {
      const client = askAgent(call);
      const summary = await lookAt(client, call.options.probe === true);
      const nodes = client.nodeHealth(given({ cluster: call.options.cluster }));
      await show(call, summary, call.options.failing === true ? failing(nodes) : nodes);
      return summary.unreachable > 0 ? EXIT.degraded : EXIT.ok;
    },
  });
}

function get(): Command {
  return command<Options>({
    name: 'get <node>',
    summary: 'Show the probes of one node',
    details: 'The node is given as cluster/name, or by its name alone. Exit code: 4 when it does not answer.',
    examples: [['health get cluster-b/node-1', 'by cluster and name']],
    shared: SHOWS_AGENT,
    options: [probeOption()],
    run: getOne,
  });
}

async function getOne(call: Call<Options>): Promise<ExitCode> {
  const asked = call.args[0] ?? '';
  const slash = asked.indexOf('/');
  const name = asked.slice(slash + 1);
  const client = askAgent(call);
  await lookAt(client, call.options.probe === true);
  const found: NodeHealthRecord[] = [];
  for await (const each of client.nodeHealth({ name, ...(slash > 0 && { cluster: asked.slice(0, slash) }) }))
    found.push(each);
  if (found.length === 0) throw new MeshError('API-NOT-FOUND', `node ${JSON.stringify(asked)}`);
  const { terminal, options } = call;
  if (options.output === 'table') for (const each of found) await write(terminal.out, nodeText(each, Date.now()));
  else await writeTableOf(call, found);
  return found.some(({ state }) => state === 'unreachable') ? EXIT.degraded : EXIT.ok;
}

/** The summary; with `probe`, after a round that was begun for us. */
async function lookAt(client: AgentClient, probe: boolean): Promise<NodeHealthSummary> {
  const askedAt = probe ? (await client.probeNodes()).askedAt : 0;
  const until = performance.now() + PROBE_MS;
  for (;;) {
    const { nodeHealth } = await client.status();
    if (nodeHealth === undefined)
      throw new MeshError('API-NOT-FOUND', 'probes between nodes are off: health.enabled is false');
    const done = nodeHealth.nodes === 0 || (nodeHealth.begunAt ?? 0) >= askedAt;
    if (done || performance.now() > until) return nodeHealth;
    await sleep(POLL_MS);
  }
}

async function* failing(nodes: AsyncIterable<NodeHealthRecord>): AsyncIterable<NodeHealthRecord> {
  for await (const each of nodes) if (each.state !== 'reachable') yield each;
}

async function show(
  call: Call<Options>,
  summary: NodeHealthSummary,
  nodes: AsyncIterable<NodeHealthRecord>,
): Promise<void> {
  const { terminal, options } = call;
  if (options.output === 'json' || options.output === 'yaml') return void (await writeTableOf(call, nodes));
  await write(terminal.out, healthHead(summary));
  if (options.succinct === true || options.output === 'wide') return void (await writeTableOf(call, nodes));
  for await (const each of nodes) await write(terminal.out, nodeText(each, Date.now()));
}

function writeTableOf(
  call: Call<Options>,
  records: AsyncIterable<NodeHealthRecord> | Iterable<NodeHealthRecord>,
): Promise<number> {
  const { terminal, options } = call;
  return writeList({ terminal, format: options.output, kind: 'NodeHealthList', records, columns: COLUMNS });
}

const of = (node: NodeHealthRecord, kind: 'node' | 'health' | 'router') =>
  node.addresses.filter((each) => each.kind === kind && (each.primary || kind === 'router'));

const COLUMNS: readonly Column<NodeHealthRecord>[] = [
  { heading: 'Name', cell: ({ cluster, name }) => `${cluster}/${name}` },
  { heading: 'State', cell: ({ state }) => state },
  { heading: 'IP', cell: (node) => of(node, 'node').map(({ ip }) => ip) },
  { heading: 'ICMP', cell: (node) => of(node, 'node').map(({ icmp }) => connectivityCell([icmp])) },
  { heading: 'HTTP', cell: (node) => of(node, 'node').map(({ http }) => connectivityCell([http])) },
  { heading: 'Endpoint', cell: (node) => of(node, 'health').map(({ icmp, http }) => connectivityCell([icmp, http])) },
  { heading: 'Router', cell: (node) => of(node, 'router').map(({ icmp }) => connectivityCell([icmp])) },
];
