/**
 * A process inside of a network namespace that drives one data path by order of its parent, a line of JSON for each:
 * `{id, order, ...}` is answered by `{id, answer}` or `{id, error}`; what happens by itself is `{event, ...}`.
 *
 * It behaves as the agent does: on drift it applies everything again, and a failed change set is tried again.
 */
import { createInterface } from 'node:readline';
import { MeshError } from '../../../src/core/errors.ts';
import { formatIpv6 } from '../../../src/core/ip.ts';
import { BpfDatapath } from '../../../src/datapath/bpf/datapath.ts';
import type { Datapath } from '../../../src/datapath/datapath.ts';
import type { DesiredChanges, DesiredState } from '../../../src/datapath/desired.ts';
import { NftDatapath } from '../../../src/datapath/nft/datapath.ts';
import { SocketDatapath } from '../../../src/datapath/sockets/datapath.ts';
import { SplitDatapath } from '../../../src/datapath/split.ts';
import { type BpfObject, readBpfObject } from '../../../src/host/bpf/object.ts';
import type { DirectionChanges, DirectionPolicy } from '../../../src/policy/result.ts';
import { Classes, desiredState, type Spec } from './spec.ts';

const log = {
  info: (facts: object, message: string) => say({ event: 'log', message, ...facts }),
  warn: (facts: object, message: string) => say({ event: 'log', message, ...facts }),
};
const makers: Record<string, () => Datapath> = {
  nftables: () => new NftDatapath({ log, checkMs: 200 }),
  sockets: () =>
    new SocketDatapath({
      policy: new NftDatapath({ log, checkMs: 200 }),
      enabled: process.env.MESH_TEST_SOCKETS !== 'off',
      ...(process.env.MESH_TEST_BPF !== undefined && { fileSystem: process.env.MESH_TEST_BPF }),
      ...{ log, checkMs: 200 },
    }),
  'bpf-services': () =>
    new SplitDatapath({
      judge: new BpfDatapath({ log, checkMs: 200, fileSystem: process.env.MESH_TEST_BPF }),
      leader: new NftDatapath({ log, checkMs: 200, judges: false }),
    }),
  bpf: () =>
    new BpfDatapath({ log, checkMs: 200, fileSystem: process.env.MESH_TEST_BPF, object: policyObject(process.env) }),
  'bpf-clsact': () => new BpfDatapath({ log, checkMs: 200, fileSystem: process.env.MESH_TEST_BPF, attach: 'clsact' }),
};

/** Another version of the programs, or one with small maps. */
function policyObject({ MESH_TEST_DIGEST, MESH_TEST_ENTRIES }: NodeJS.ProcessEnv): BpfObject {
  const { maps, digest, ...object } = readBpfObject('policy');
  const small = new Set(['hosts4', 'hosts6', 'classes', 'rows', 'prefixes4', 'prefixes6', 'ranges', 'passes']);
  const entries = Number(MESH_TEST_ENTRIES ?? 0);
  return {
    ...object,
    digest: MESH_TEST_DIGEST ?? digest,
    maps: maps.map((map) => (small.has(map.name) ? { ...map, entries } : map)),
  };
}

const datapath = (makers[process.argv[2] ?? ''] as () => Datapath)();
// Another offset, another numbering: what a new process of the agent has in common with the last is the kernel alone.
const offset = Number(process.argv[3] ?? 0);
const classes = { ingress: new Classes(offset), egress: new Classes(offset) };
let desired: DesiredState | undefined;
let queue: Promise<unknown> = Promise.resolve();

datapath.onDrift((what) => {
  say({ event: 'drift', what });
  void inTurn(async () => desired && datapath.apply(desired, { everything: true })).catch((error: unknown) =>
    say({ event: 'failed', ...errorOf(error) }),
  );
});

const orders: Record<string, (request: never) => Promise<unknown> | unknown> = {
  open: () => datapath.open(),
  apply: ({ spec, by }: { spec: Spec; by: 'everything' | 'changes' }) => {
    const next = desiredState(spec, classes);
    const changes = by === 'everything' || desired === undefined ? { everything: true } : changesOf(desired, next);
    desired = next;
    return datapath.apply(next, changes);
  },
  again: () => desired && datapath.apply(desired, { everything: true }),
  /** Does not look up for a while. */
  stall: ({ ms }: { ms: number }) => {
    say({ event: 'stalled' });
    setImmediate(() => {
      for (const end = performance.now() + ms; performance.now() < end; );
    });
  },
  /** From here on what is told of packets is an event, with the whole of what was copied. */
  hear: ({ what }: { what: 'verdicts' | 'names' }) =>
    datapath.hear?.(what, ({ prefix, payload }) =>
      say({ event: 'told', what: prefix, message: payload.toString('hex') }),
    ) !== undefined,
  addresses: () => datapath.dumpAddresses(),
  policy: () => datapath.dumpPolicy(),
  connections: () => datapath.dumpConnections(),
  services: () => datapath.dumpServices(),
  status: () => datapath.status,
  remove: () => datapath.remove(),
  close: () => datapath.close(),
};

createInterface({ input: process.stdin }).on('line', (line) => {
  const { id, order, ...request } = JSON.parse(line);
  const run = async (): Promise<unknown> => orders[order]?.(request as never);
  (order === 'status' ? run() : inTurn(run)).then(
    (answer) => say({ id, answer: answer ?? null }),
    (error: unknown) => say({ id, error: errorOf(error) }),
  );
});
process.stdin.on('end', () => process.exit(0));
say({ event: 'ready' });

function inTurn<Answer>(work: () => Promise<Answer>): Promise<Answer> {
  const result = queue.then(work);
  queue = result.catch(() => undefined);
  return result;
}

function say(message: object): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

function errorOf(error: unknown): { code: string; message: string } {
  if (error instanceof MeshError) return { code: error.code, message: error.message };
  return { code: '', message: error instanceof Error ? (error.stack ?? error.message) : String(error) };
}

/** What the model would tell: keys that differ. */
function changesOf(before: DesiredState, after: DesiredState): DesiredChanges {
  const hosts4 = new Set<number>();
  const hosts6 = new Set<string>();
  for (const [a, b] of [
    [before, after],
    [after, before],
  ] as const) {
    for (const word of a.addresses.hosts4.keys()) {
      if (a.addresses.hosts4.lookup([word], 0) !== b.addresses.hosts4.lookup([word], 0)) hosts4.add(word);
    }
    const keys = a.addresses.hosts6.keys();
    for (let at = 0; at < keys.length; at += 4) {
      const key = [...keys.subarray(at, at + 4)];
      if (a.addresses.hosts6.lookup(key, 0) !== b.addresses.hosts6.lookup(key, 0)) hosts6.add(formatIpv6(key));
    }
  }
  return {
    hosts4,
    hosts6,
    prefixes: JSON.stringify([...before.addresses.prefixes()]) !== JSON.stringify([...after.addresses.prefixes()]),
    ingress: policyChanges(before.ingress, after.ingress),
    egress: policyChanges(before.egress, after.egress),
    border: JSON.stringify(before.border) !== JSON.stringify(after.border),
    overlay: JSON.stringify(before.overlay) !== JSON.stringify(after.overlay),
    services: servicesChanged(before, after),
  };
}

function servicesChanged(before: DesiredState, after: DesiredState): string[] {
  const mapOf = ({ services }: DesiredState) => (services === 'off' ? undefined : services);
  const keys = new Set([...(mapOf(before)?.keys() ?? []), ...(mapOf(after)?.keys() ?? [])]);
  const text = (state: DesiredState, key: string): string => JSON.stringify(mapOf(state)?.get(key)) ?? '';
  return [...keys].filter((key) => text(before, key) !== text(after, key));
}

function policyChanges(before: DirectionPolicy, after: DirectionPolicy): DirectionChanges {
  const identities: DirectionChanges['identities'] = new Set(
    [...before.identities(), ...after.identities()]
      .map(([id]) => id)
      .filter((id) => before.classOf(id).id !== after.classOf(id).id),
  );
  const rows = (policy: DirectionPolicy): Map<number, string> =>
    new Map([...policy.classes()].map((each) => [each.id, JSON.stringify(each.rows)]));
  const [a, b] = [rows(before), rows(after)];
  const mode = before.enforcing !== after.enforcing || before.defaultDeny !== after.defaultDeny;
  const changed = [...a.keys(), ...b.keys()].filter((id) => mode || a.get(id) !== b.get(id));
  return { identities, classes: new Set(changed) };
}
