import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { PORTS } from '../lab/matrix.ts';
import type { LabCluster, MeshLab } from '../lab/mesh-lab.ts';
import { until } from '../lab/namespace.ts';
import { CLUSTER_A, CLUSTER_B, fromFrontendOf, policyFor, startStory } from '../lab/story.ts';

/** Everything at once, at random: afterwards the kernel is as if only the last state had ever been. */
const SEED = Number(process.env.STRESS_SEED ?? Date.now() % 1_000_000);
const STRESS_MS = 18_000;
const SETTLE_MS = 10_000;

let lab: MeshLab;

before(async () => {
  // A deprecation warning of the runtime would be a fault, too.
  process.env.NODE_OPTIONS = '--throw-deprecation';
  lab = await startStory([CLUSTER_A, CLUSTER_B]);
});
after(() => lab?.close());

/** Mulberry32: the same seed gives the same story, as far as time does not tell it. */
function randomOf(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

const POLICIES: readonly ((name: string) => string)[] = [
  (name) => policyFor(name, { ingress: [fromFrontendOf('cluster-a')] }),
  (name) => policyFor(name, { ingress: [fromFrontendOf('cluster-b')], egress: [{ toEntities: ['all'] }] }),
  (name) => policyFor(name, { ingress: [{ fromCIDR: ['203.0.113.0/24'], toPorts: [{ ports: [{ port: '80' }] }] }] }),
  (name) => policyFor(name, { egressDeny: [{ toCIDRSet: [{ cidr: '10.0.0.0/8', except: ['10.244.0.0/16'] }] }] }),
  (name) =>
    policyFor(name, { ingress: [{ fromEndpoints: [{ matchExpressions: [{ key: 'tier', operator: 'Exists' }] }] }] }),
  () => 'kind: [',
];
const LABELS = [{ app: 'frontend' }, { app: 'batch' }, { tier: 'data' }, { app: 'frontend', tier: 'web' }];

interface Action {
  readonly weight: number;
  act(): Promise<void>;
}

/** What may happen, and what is true in the end. */
class Chaos {
  readonly pods = new Map<string, number>();
  readonly #random: (below: number) => number;
  #policies = new Set<string>();
  #churn = 0;

  constructor(random: (below: number) => number) {
    this.#random = random;
  }

  actions(): readonly Action[] {
    return [
      { weight: 60, act: () => this.#pod() },
      { weight: 15, act: async () => this.#policy() },
      { weight: 6, act: () => this.#garbage() },
      { weight: 6, act: async () => this.#containers() },
      { weight: 3, act: async () => this.#anyCluster().door.cut() },
      { weight: 2, act: () => this.#gone() },
      { weight: 2, act: async () => this.#file() },
      { weight: 2, act: async () => void lab.machine.namespace.run('nft', 'flush', 'ruleset') },
      { weight: 2, act: async () => void lab.machine.namespace.run('ip', 'route', 'flush', 'proto', '77') },
    ];
  }

  async run(): Promise<void> {
    const actions = this.actions().flatMap(({ weight, act }) => Array.from({ length: weight }, () => act));
    const end = performance.now() + STRESS_MS;
    while (performance.now() < end) {
      await actions[this.#random(actions.length)]?.();
      await new Promise((resolve) => setTimeout(resolve, this.#random(40)));
    }
  }

  /** Everything is reachable, every file says something; facts and policies stay as they fell. */
  async calm(): Promise<void> {
    for (const cluster of lab.clusters.values()) {
      await cluster.door.open();
      cluster.door.resume();
      for (let i = 0; i < 4; i++) await cluster.facts.unset('endpoints', `garbage-${i}`);
    }
    lab.connect('cluster-b');
    for (let i = 0; i < POLICIES.length; i++) {
      const file = `p${i}.yaml`;
      if (this.#policies.has(file)) lab.agent.policy(file, (POLICIES[i % 5] as (name: string) => string)(`p${i}`));
    }
    lab.agent.policy('last.yaml', (POLICIES[0] as (name: string) => string)('last'));
  }

  #anyCluster(): LabCluster {
    return lab.cluster(this.#random(2) === 0 ? 'cluster-a' : 'cluster-b');
  }

  /** A pod comes, changes or goes. */
  async #pod(): Promise<void> {
    const { facts, node, name: cluster } = this.#anyCluster();
    const index = 100 + this.#random(60);
    const where = cluster === 'cluster-a' ? 1 : 2;
    const addresses = [`10.${243 + where}.1.${index}`, `fd00:24${where}::${index}`];
    const name = `pod-${index}`;
    if (this.#random(3) === 0) {
      await facts.removePod(name);
      for (const address of addresses) this.pods.delete(address);
      return;
    }
    const labels = LABELS[this.#random(LABELS.length)] ?? {};
    const host = node.place.ipv4;
    const identity = await facts.pod({ name, namespace: 'production', labels, addresses, host });
    for (const address of addresses) this.pods.set(address, identity);
  }

  #policy(): void {
    const index = this.#random(POLICIES.length);
    const file = `p${index}.yaml`;
    if (this.#policies.has(file) && this.#random(2) === 0) {
      this.#policies.delete(file);
      lab.agent.removePolicy(file);
      return;
    }
    this.#policies.add(file);
    lab.agent.policy(file, (POLICIES[this.#random(POLICIES.length)] as (name: string) => string)(`p${index}`));
  }

  async #garbage(): Promise<void> {
    const { facts } = this.#anyCluster();
    const values = ['{', '[]', '{"IP":"nonsense"}', '\u0000'.repeat(100)];
    await facts.set('endpoints', `garbage-${this.#random(4)}`, values[this.#random(values.length)] ?? '');
  }

  /** Containers come and go beside us. */
  #containers(): void {
    const names = Array.from({ length: 5 }, (_, i) => `c${this.#churn++}x${i}`);
    const lines = names.flatMap((name) => [`link add ${name} up type veth peer name ${name}p`, `link delete ${name}`]);
    lab.machine.namespace.feed(`${lines.join('\n')}\n`, 'ip', '-batch', '-');
  }

  /** A store that is out of reach for a moment. */
  async #gone(): Promise<void> {
    const { door } = this.#anyCluster();
    await door.shut();
    await new Promise((resolve) => setTimeout(resolve, 300));
    await door.open();
  }

  #file(): void {
    if (this.#random(2) === 0) lab.connect('cluster-b');
    else {
      lab.connect('cluster-b');
      lab.agent.removeCluster('cluster-b');
    }
  }
}

/** Addresses and policy of the kernel, by what identities mean: their numbers may be others in another process. */
async function kernel(): Promise<{ addresses: string[]; policy: string[] }> {
  const meaning = new Map<number, string>();
  for await (const { id, labels } of lab.agent.api.identities()) meaning.set(id, labels.join(','));
  const addresses: string[] = [];
  for await (const { prefix, labels, tunnelEndpoint } of lab.agent.api.kernelIpcache())
    addresses.push(`${prefix} ${labels.join(',')} ${tunnelEndpoint}`);
  const policy: string[] = [];
  for await (const { direction, verdict, identities, protocol, ports } of lab.agent.api.kernelPolicy()) {
    const who = (identities ?? []).map((id) => meaning.get(id) ?? String(id)).sort();
    policy.push(`${direction} ${verdict} ${protocol} ${ports} ${who.join('; ')}`);
  }
  return { addresses: addresses.sort(), policy: policy.sort() };
}

function memory(): number {
  const found = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${lab.agent.pid}/status`, 'utf8'));
  return Number(found?.[1] ?? 0) / 1024;
}

async function settled(): Promise<void> {
  await lab.agent.untilReady(20_000);
  await lab.agent.untilStatus(
    'nothing is wrong and nothing waits',
    ({ state, health, datapath, quarantine }) =>
      state === 'ok' && health.length === 0 && datapath.lagMs === 0 && quarantine.length === 0,
    SETTLE_MS + 10_000,
  );
}

test('after seconds of everything at once the kernel is as the clusters and policies are, and nothing is left behind', async (t) => {
  t.diagnostic(`STRESS_SEED=${SEED}`);
  const chaos = new Chaos(randomOf(SEED));
  const { pid } = lab.agent;
  const before = memory();
  await chaos.run();
  await chaos.calm();
  await settled();
  // The last pods may still be on their way.
  const expected = [...chaos.pods].map(([address, identity]) => `${address} ${identity}`).sort();
  const seen = async (): Promise<string[]> => {
    const found: string[] = [];
    for await (const { prefix, identity } of lab.agent.api.kernelIpcache()) {
      const address = prefix.replace(/\/(32|128)$/, '');
      if (/^10\.24[45]\.1\.1[0-5][0-9]$|^fd00:24[12]::1[0-5][0-9]$/.test(address)) found.push(`${address} ${identity}`);
    }
    return found.sort();
  };
  await until(
    'the kernel knows every pod, and no other',
    async () => `${await seen()}` === `${expected}`,
    SETTLE_MS,
  ).catch(async (error: unknown) => {
    assert.deepEqual(await seen(), expected, String(error));
  });
  await settled();
  const { datapath } = await lab.agent.status();
  t.diagnostic(`${datapath.healed} foreign changes healed, memory ${before.toFixed(0)} → ${memory().toFixed(0)} MB`);
  assert.equal(lab.agent.pid, pid);
  assert.ok(lab.agent.running);
  assert.doesNotMatch(lab.agent.log, /unexpected error|DEP0|MaxListeners|AGT-FAILED/);
  assert.ok(memory() < before + 80, `memory grew from ${before} to ${memory()} MB`);
  const held = await kernel();
  await lab.agent.stop();
  lab.agent.start();
  await settled();
  assert.deepEqual(await kernel(), held, 'a fresh agent sees the same');
  const { ipv4 } = lab.machine;
  const probe = { protocol: 'tcp', to: ipv4, port: PORTS.tcp } as const;
  assert.equal(await lab.cluster('cluster-a').place('frontend').probe(probe), 'pass');
});
