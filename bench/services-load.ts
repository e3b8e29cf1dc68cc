/**
 * `services-load.ts COUNT WAY FILESYSTEM`: writes services of a benchmark into the kernel of its network namespace, measures
 * that, prints it as JSON and ends. The way says where
 * they are led: `sockets`, or `packets`; with `bpf` at the socket, and eBPF judges.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { parseIpv4 } from '../src/core/ip.ts';
import { BpfDatapath } from '../src/datapath/bpf/datapath.ts';
import type { Datapath } from '../src/datapath/datapath.ts';
import type { DesiredState } from '../src/datapath/desired.ts';
import { NftDatapath } from '../src/datapath/nft/datapath.ts';
import { SocketDatapath } from '../src/datapath/sockets/datapath.ts';
import { SplitDatapath } from '../src/datapath/split.ts';
import type { ServiceFact } from '../src/service/facts.ts';
import { ServiceModel } from '../src/service/model.ts';
import { manyClasses, world } from './nft.ts';

export interface Loaded {
  readonly modelMs: number;
  readonly modelBlockedMs: number;
  readonly loadMs: number;
  readonly loadBlockedMs: number;
  readonly changeP99Ms: number;
  readonly elementsPerChange: number;
  readonly reopenMs: number;
}

const CHANGES = 200;
const BACKENDS = 5;
const PORT = 1001;

const ports = (port: number) => [{ name: 'http', protocol: 'TCP', port }];

/** Service `n`; the first leads to the peer, all others to addresses that nobody has. `change` replaces one backend. */
function service(n: number, change = 0): ServiceFact {
  const target = (b: number): string => {
    const at = n * BACKENDS + b;
    return `10.${64 + (at >> 16)}.${(at >> 8) & 255}.${at & 255}`;
  };
  const backends = Array.from({ length: n === 0 ? 1 : BACKENDS }, (_, b) => {
    const address = n === 0 ? '10.200.0.2' : b === 0 && change > 0 ? `10.66.0.${change}` : target(b);
    return [address, ports(PORT)] as const;
  });
  return {
    cluster: 'cluster-a',
    namespace: 'bench',
    name: `service-${n}`,
    clusterId: 1,
    frontends: new Map([[`10.96.${n >> 8}.${n & 255}`, ports(PORT)]]),
    backends: new Map(backends),
    labels: new Map(),
    selector: new Map(),
    includeExternal: true,
    shared: true,
  };
}

async function load(count: number, way: string, fileSystem: string): Promise<Loaded> {
  const delay = monitorEventLoopDelay({ resolution: 2 });
  const blocked = (): number => {
    const max = Math.max(0, delay.max / 1e6 - 2);
    delay.reset();
    return Math.round(max * 10) / 10;
  };
  const model = new ServiceModel({ frontendRefusal: () => undefined, backendRefusal: () => undefined }, Date.now);
  model.setJoined('cluster-a');
  const facts = Array.from({ length: count }, (_, n) => service(n));
  await pause();
  delay.enable();
  await pause();
  delay.reset();
  const start = performance.now();
  for (const fact of facts) model.setService(fact.cluster, `${fact.namespace}/${fact.name}`, fact);
  while (!model.settle(15)) await pause();
  const modelMs = performance.now() - start;
  const modelBlockedMs = blocked();
  model.drainChanges();
  const { desired: policy, hosts4 } = world(1000, manyClasses(2, 10));
  // The peer is one of many who may be asked on the ports of the bench.
  hosts4.set(hosts4.insert([parseIpv4('10.200.0.2')]), 0, 65_536);
  const desired: DesiredState = { ...policy, services: model.frontends };
  const open = async (): Promise<SocketDatapath> => {
    const policy = way === 'bpf' ? withBpf(fileSystem) : new NftDatapath();
    const datapath = new SocketDatapath({ policy, enabled: way !== 'packets', fileSystem });
    await datapath.open();
    return datapath;
  };
  const datapath = await open();
  await datapath.apply({ ...desired, services: 'off' }, { everything: true });
  blocked();
  // None: the table with its policy alone.
  if (count === 0) process.exit(0);
  const { tookMs: loadMs } = await datapath.apply(desired, { everything: true });
  const loadBlockedMs = blocked();
  const { services } = datapath.status;
  if (services?.at !== (way === 'packets' ? 'packet' : 'socket')) throw new Error(JSON.stringify(services));
  const times: number[] = [];
  let elements = 0;
  for (let n = 1; n <= CHANGES; n++) {
    const begin = performance.now();
    const changed = 1 + ((n * 7919) % Math.max(1, count - 1));
    const fact = service(changed, n);
    model.setService(fact.cluster, `${fact.namespace}/${fact.name}`, fact);
    model.settle();
    const { added, removed } = await datapath.apply(desired, { services: model.drainChanges() });
    times.push(performance.now() - begin);
    elements += added + removed;
    await pause();
  }
  await datapath.close();
  const again = performance.now();
  const second = await open();
  const report = await second.apply(desired, { everything: true });
  if (report.added + report.removed > 0) throw new Error('a restart changed elements');
  await second.close();
  return {
    modelMs,
    modelBlockedMs,
    loadMs,
    loadBlockedMs,
    changeP99Ms: times.sort((a, b) => a - b)[Math.floor(CHANGES * 0.99)] ?? 0,
    elementsPerChange: elements / CHANGES,
    reopenMs: performance.now() - again,
  };
}

function withBpf(fileSystem: string): Datapath {
  const leader = new NftDatapath({ judges: false });
  return new SplitDatapath({ judge: new BpfDatapath({ fileSystem }), leader });
}

function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 3));
}

process.stdout.write(
  JSON.stringify(await load(Number(process.argv[2]), process.argv[3] ?? 'packets', process.argv[4] ?? '')),
);
