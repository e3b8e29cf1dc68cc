import { readFileSync } from 'node:fs';
import { release } from 'node:os';
import type { Screen, TableRow } from './demo-screen.ts';
import { COLUMNS, type Expected, type Inhabited, questionsOf, type Reach } from './matrix.ts';
import { host } from './namespace.ts';
import { reach } from './reach.ts';

/** What `scripts/demo.sh` can show. */
export interface Demo {
  readonly screen: Screen;
  /** Flows that went another way than the policy says. */
  readonly wrong: number;
  run(): Promise<void>;
  /** What to try by hand while everything still runs. */
  explore(): void;
  close(): Promise<void>;
}

const POLICY = `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: allow-cross-cluster
  namespace: production
spec:
  endpointSelector:
    matchLabels:
      app: backend
  ingress:
`;

const FROM_FRONTEND = `  - fromEndpoints:
    - matchLabels:
        app: frontend
        io.cilium.k8s.policy.cluster: `;

/** Section 3.2 of the text that describes the mesh, word for word. */
export const CROSS_CLUSTER = `${POLICY}${FROM_FRONTEND}cluster-a
`;

export const NARROWED = `${POLICY}${FROM_FRONTEND}cluster-a
    toPorts:
    - ports:
      - {port: "80", protocol: TCP}
${FROM_FRONTEND}cluster-b
    toPorts:
    - ports:
      - {port: "53", protocol: UDP}
  egress:
  - toEndpoints:
    - matchLabels:
        app: frontend
        io.cilium.k8s.policy.cluster: cluster-b
`;

export const everyone = (reach: Reach, others: Expected = {}): Expected => ({
  'cluster-a/frontend > my-vm': reach,
  'cluster-a/batch > my-vm': reach,
  'cluster-b/frontend > my-vm': reach,
  'world > my-vm': reach,
  'my-vm > cluster-a/frontend': 'all',
  'my-vm > cluster-a/batch': 'all',
  'my-vm > cluster-b/frontend': 'all',
  'my-vm > world': 'all',
  ...others,
});

const WORDS: Readonly<Record<Reach, string>> = {
  all: 'everything',
  none: 'nothing',
  tcp: 'only tcp/80',
  udp: 'only udp/53',
  icmp: 'only ping',
};

const TITLES = ['tcp/80', 'v6', 'udp/53', 'v6', 'ping', 'v6'];

/** Tries every flow and shows the table. @returns how many went another way */
export async function showReach(screen: Screen, lab: Inhabited, expected: Expected): Promise<number> {
  const answers = await reach(questionsOf(lab, expected));
  const rows: TableRow[] = Object.entries(expected).map(([pair, may], index) => ({
    title: pair.replace(' > ', ' → '),
    expects: WORDS[may],
    answers: answers.slice(index * COLUMNS.length, (index + 1) * COLUMNS.length),
  }));
  return screen.table(TITLES, rows);
}

export function versions(): string {
  const name = /^PRETTY_NAME="?([^"\n]*)/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'Linux';
  const nft = /v[\d.]+/.exec(host('nft', '--version'))?.[0] ?? '';
  const etcd = /[\d.]+/.exec(host('etcd', '--version'))?.[0] ?? '';
  return `${name} · kernel ${release()} · nftables ${nft} · etcd ${etcd}`;
}
