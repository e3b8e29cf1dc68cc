import assert from 'node:assert/strict';
import type { Place, ProbeProtocol } from './place.ts';
import { describe, differs, type Question, reach } from './reach.ts';
import type { DualAddress } from './topology.ts';

/** The ports on which every place serves. */
export const PORTS = { tcp: 80, udp: 53, icmp: 0 } as const;

/** The cells of a row: every protocol in both families. */
export const COLUMNS: readonly { readonly protocol: ProbeProtocol; readonly family: 4 | 6 }[] = [
  { protocol: 'tcp', family: 4 },
  { protocol: 'tcp', family: 6 },
  { protocol: 'udp', family: 4 },
  { protocol: 'udp', family: 6 },
  { protocol: 'icmp', family: 4 },
  { protocol: 'icmp', family: 6 },
];

/** What gets through, in both families. */
export type Reach = 'all' | 'none' | ProbeProtocol;

/** By `<from> > <to>`; a place is `my-vm`, `world` or `<cluster>/<pod>`. */
export type Expected = Readonly<Record<string, Reach>>;

/** Whoever has a machine, clusters and an outside world. */
export interface Inhabited {
  readonly machine: Place & DualAddress;
  readonly topology: { readonly world: Place & DualAddress };
  readonly clusters: ReadonlyMap<string, { readonly pods: ReadonlyMap<string, Place> }>;
  cluster(name: string): { place(pod: string): Place & DualAddress };
}

export function placeOf(lab: Inhabited, name: string): Place & DualAddress {
  if (name === 'my-vm') return lab.machine;
  if (name === 'world') return lab.topology.world;
  const [cluster = '', pod = ''] = name.split('/');
  return lab.cluster(cluster).place(pod);
}

/** Echo servers on the machine, the pods and the outside world. */
export async function serveEverywhere(lab: Inhabited): Promise<void> {
  const pods = [...lab.clusters.values()].flatMap((cluster) => [...cluster.pods.values()]);
  const ports = { tcp: [PORTS.tcp], udp: [PORTS.udp] };
  await Promise.all([lab.machine, lab.topology.world, ...pods].map((place) => place.listen(ports)));
}

/** One row of questions for each pair. */
export function questionsOf(lab: Inhabited, expected: Expected): Question[] {
  return Object.entries(expected).flatMap(([pair, may]) => {
    const [from = '', to = ''] = pair.split(' > ');
    return COLUMNS.map(({ protocol, family }) => ({
      from: placeOf(lab, from),
      to: placeOf(lab, to),
      family,
      protocol,
      port: PORTS[protocol],
      expected: may === 'all' || may === protocol ? ('pass' as const) : ('blocked' as const),
    }));
  });
}

/** Fails with every flow that goes another way, after some patience for changes that are on their way. */
export async function assertReach(lab: Inhabited, expected: Expected, patienceMs = 4000): Promise<void> {
  const wrong = (await reach(questionsOf(lab, expected), patienceMs)).filter(differs).map(describe);
  assert.deepEqual(wrong, []);
}
