/**
 * A process in a network namespace that puts the policies of vector cases into the kernel, through the data path of the agent,
 * and reads back what the kernel then holds. One line of JSON is answered by one line of JSON.
 */
import { createInterface } from 'node:readline';
import { identity, type NumericIdentity } from '../../src/core/identity.ts';
import { addressBits, contains, formatPrefix, type Prefix, parseAddress, parsePrefix } from '../../src/core/ip.ts';
import { WordTable } from '../../src/core/word-table.ts';
import type { KernelAddress, KernelPolicyRow } from '../../src/datapath/datapath.ts';
import type { DesiredState } from '../../src/datapath/desired.ts';
import { decidingRow } from '../../src/datapath/judge.ts';
import { NftDatapath } from '../../src/datapath/nft/datapath.ts';
import type { PolicyModel } from '../../src/policy/model.ts';
import { isSendable, type PacketFlow, packetFlows } from './kernel-flow.ts';
import { modelOfCase } from './run-case.ts';
import type { VectorCase } from './vector.ts';

export interface LoadedCase {
  /** Flows that were looked up in the kernel's tables; none when the case is one of refusal. */
  readonly walked: readonly (PacketFlow & { readonly got: 'allow' | 'deny'; readonly sendable: boolean })[];
  /** Flows that no packet can say. */
  readonly unsaid: number;
}

const datapath = new NftDatapath();
await datapath.open();
createInterface({ input: process.stdin }).on('line', (line) => {
  const { id, vector } = JSON.parse(line) as { id: number; vector: VectorCase };
  load(vector).then(
    (result) => say({ id, result }),
    (error: unknown) => say({ id, error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
  );
});
process.stdin.on('end', () => process.exit(0));
say({ ready: true });

function say(message: object): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

async function load(vector: VectorCase): Promise<LoadedCase> {
  const model = vector.error === true ? undefined : modelOfCase(vector);
  if (model === undefined) return { walked: [], unsaid: 0 };
  const flows = (vector.flows ?? []).map((flow) => packetFlows(vector, flow));
  await datapath.apply(desiredState(vector, model, flows.flat()), { everything: true });
  const tables = new KernelTables(await datapath.dumpAddresses(), await datapath.dumpPolicy(), vector);
  return {
    walked: flows.flat().map((flow) => ({ ...flow, got: tables.judge(flow), sendable: isSendable(flow) })),
    unsaid: flows.filter((each) => each.length === 0).length,
  };
}

function desiredState(vector: VectorCase, model: PolicyModel, flows: readonly PacketFlow[]): DesiredState {
  const hosts4 = new WordTable({ keyWords: 1, columns: 2 });
  const hosts6 = new WordTable({ keyWords: 4, columns: 2 });
  const prefixes = new Map<string, { readonly prefix: Prefix; readonly identity: NumericIdentity }>();
  // As in the ipcache: what policies name gives way to what endpoints have.
  for (const named of model.resolved.prefixes.values()) prefixes.set(formatPrefix(named.prefix), named);
  const claim = (prefix: Prefix | undefined, id: number): void => {
    if (prefix === undefined) return;
    if (prefix.bits !== addressBits(prefix.family))
      prefixes.set(formatPrefix(prefix), { prefix, identity: identity(id) });
    else {
      const table = prefix.family === 4 ? hosts4 : hosts6;
      table.set(table.insert(prefix.words), 0, id);
    }
  };
  for (const { id, ips } of vector.identities ?? []) for (const ip of ips ?? []) claim(parsePrefix(ip), id);
  for (const flow of flows) if (flow.identity !== undefined) claim(parsePrefix(flow.peer), flow.identity);
  return {
    addresses: { hosts4, hosts6, prefixes: () => prefixes.values() },
    ingress: model.resolved.ingress,
    egress: model.resolved.egress,
    border: {
      devices: ['eth0'],
      dualStack: vector.config.ipv4 && vector.config.ipv6,
      failsafe: { ingress: [], egress: [] },
      stores: [],
      nodes: [],
      tunnelPort: 8472,
      audit: false,
    },
    overlay: undefined,
  };
}

/** The kernel's tables as they were read from it, walked as its rules do: address, identity, class, row. */
class KernelTables {
  readonly #addresses: readonly { readonly prefix: Prefix; readonly identity: number }[];
  readonly #rows: readonly KernelPolicyRow[];
  readonly #world: Readonly<Record<4 | 6, number>>;

  constructor(addresses: readonly KernelAddress[], rows: readonly KernelPolicyRow[], vector: VectorCase) {
    this.#addresses = addresses.map(({ prefix, identity: id }) => ({
      prefix: parsePrefix(prefix) as Prefix,
      identity: id,
    }));
    this.#rows = rows;
    this.#world = vector.config.ipv4 && vector.config.ipv6 ? { 4: 9, 6: 10 } : { 4: 2, 6: 2 };
  }

  judge({ direction, peer, protocol, port }: PacketFlow): 'allow' | 'deny' {
    const address = parseAddress(peer);
    if (address === undefined) throw new Error(peer);
    const single = { ...address, bits: addressBits(address.family) };
    // Prefixes are without overlaps, single addresses are listed behind them and come first.
    const id =
      this.#addresses.findLast(({ prefix }) => contains(prefix, single))?.identity ?? this.#world[address.family];
    const there = this.#rows.filter((row) => row.direction === direction);
    const own = there.filter(({ identities }) => identities.includes(id));
    const row = decidingRow(own.length > 0 ? own : there.filter(({ identities }) => identities.length === 0), {
      protocol,
      port,
    });
    return row === undefined || (row.verdict === 'deny' && row.audit !== true) ? 'deny' : 'allow';
  }
}
