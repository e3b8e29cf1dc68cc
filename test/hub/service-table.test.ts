import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type MachineRecord, SERVES_NOTHING } from '../../src/hub/registration/machine-record.ts';
import { backendsOf } from '../../src/hub/services/backends.ts';
import { ServiceTable } from '../../src/hub/services/service-table.ts';
import { encodeWorkload, registrationLabels, type Workload } from '../../src/hub/workloads/workload.ts';
import { WorkloadBook } from '../../src/hub/workloads/workload-book.ts';
import { encodeMachineService, type MachineService } from '../../src/kvstore/codec/machine-service.ts';
import type { PrefixSink, PrefixWatch } from '../../src/kvstore/store.ts';
import { selectsMachine } from '../../src/service/selection.ts';

/** A store in memory, whose keys come in whatever order the test likes. */
class MemoryStore {
  readonly #sinks = new Map<string, PrefixSink>();
  #revision = 0;

  watchPrefix(prefix: string, sink: PrefixSink): PrefixWatch {
    this.#sinks.set(prefix, sink);
    sink.listing();
    sink.listed();
    return { synced: true, lists: 1, lastError: undefined, close() {} };
  }

  put(prefix: string, key: string, value: string): void {
    this.#sinks.get(prefix)?.put(key, Buffer.from(value), ++this.#revision, 0n);
  }

  remove(prefix: string, key: string): void {
    this.#sinks.get(prefix)?.remove(key);
  }
}

const SERVICES = 'mesh-agent/v1/services/';
const WORKLOADS = 'mesh-agent/v1/workloads/';
const uid = (number: number): string => `00000000-0000-4000-8000-${String(number).padStart(12, '0')}`;

function service(name: string, namespace: string, selector: Readonly<Record<string, string>>): MachineService {
  return {
    ...{ uid: uid(1), namespace, name, global: true, shared: true, affinity: 'none', addresses: [], checks: [] },
    ports: [{ name: '', protocol: 'TCP', port: 80, targetPort: 80 }],
    selector: new Map(Object.entries(selector)),
    timing: { interval: 5, timeout: 2, rise: 2, fall: 3 },
    ...{ created: 0, changed: 0 },
  };
}

function workload(name: string, namespace: string, labels: Readonly<Record<string, string>>): Workload {
  const nothing = { serviceAccount: undefined, range4: undefined, range6: undefined, revoked: undefined };
  return { uid: uid(2), name, namespace, labels, ...nothing, created: 0, changed: 0, source: 'hand' };
}

function record(address: string, drained: number | undefined): MachineRecord {
  return {
    ...{
      uid: uid(2),
      state: 'registered',
      since: 1,
      lastSeen: 1,
      session: undefined,
      identity: 1,
      addresses: [address],
    },
    ...{ refused: [], claims: [], reason: undefined, agentVersion: undefined, policyRevision: undefined },
    serving: { ...SERVES_NOTHING, addresses: [address], drained },
  };
}

/** The table, and the same facts in plain maps. */
class Subject {
  readonly store = new MemoryStore();
  readonly services = new Map<string, MachineService>();
  readonly workloads = new Map<string, Workload>();
  readonly records = new Map<string, MachineRecord>();
  readonly table: ServiceTable;

  constructor() {
    const book = new WorkloadBook(this.store);
    this.table = new ServiceTable({
      store: this.store,
      cluster: 'vms',
      book,
      record: (name) => this.records.get(name),
    });
  }

  setService(key: string, wanted: MachineService | undefined): void {
    if (wanted === undefined) this.store.remove(SERVICES, key);
    else this.store.put(SERVICES, key, encodeMachineService(wanted));
    if (wanted === undefined) this.services.delete(key);
    else this.services.set(key, wanted);
  }

  setWorkload(name: string, wanted: Workload | undefined): void {
    const before = this.workloads.get(name);
    const [old, now] = [before && `${before.namespace}/${name}`, wanted && `${wanted.namespace}/${name}`];
    if (now !== undefined && wanted !== undefined) this.store.put(WORKLOADS, now, encodeWorkload(wanted));
    if (old !== undefined && old !== now) this.store.remove(WORKLOADS, old);
    if (wanted === undefined) this.workloads.delete(name);
    else this.workloads.set(name, wanted);
  }

  setRecord(name: string, wanted: MachineRecord | undefined): void {
    if (wanted === undefined) this.records.delete(name);
    else this.records.set(name, wanted);
    this.table.recordChanged(name);
  }

  /** By looking at everything. */
  expected(key: string): unknown[] {
    const wanted = this.services.get(key);
    if (wanted === undefined) return [];
    return [...this.workloads.values()]
      .filter((each) => {
        const machine = { namespace: each.namespace, labels: registrationLabels(each, 'vms') };
        return selectsMachine(wanted, machine);
      })
      .sort((a, b) => (a.name < b.name ? -1 : 1))
      .flatMap((each) => backendsOf(wanted, each, this.records.get(each.name)));
  }
}

/** The same numbers for a seed, always. */
function numbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return (state >>> 8) % below;
  };
}

test('whatever changes in whatever order, backends are what a look at everything says', async () => {
  for (let seed = 1; seed <= 40; seed++) {
    const random = numbers(seed);
    const subject = new Subject();
    const names = ['a', 'b', 'c', 'd'];
    const spaces = ['x', 'y'];
    const pick = (from: readonly string[]): string => from[random(from.length)] as string;
    const labels = (): Record<string, string> => ({
      app: pick(['one', 'two']),
      ...(random(2) === 0 && { tier: pick(['front', 'back']) }),
    });
    for (let step = 0; step < 150; step++) {
      const [name, space] = [pick(names), pick(spaces)];
      const kind = random(6);
      if (kind === 0)
        subject.setService(`${space}/${name}`, random(4) === 0 ? undefined : service(name, space, labels()));
      else if (kind <= 3) subject.setWorkload(name, random(5) === 0 ? undefined : workload(name, space, labels()));
      else
        subject.setRecord(name, random(4) === 0 ? undefined : record(`192.0.2.${random(9)}`, random(3) || undefined));
      if (random(3) > 0) continue;
      await Promise.resolve();
      for (const key of spaces.flatMap((each) => names.map((short) => `${each}/${short}`))) {
        const found = subject.table.backends(key);
        assert.deepEqual(found, subject.expected(key), `seed ${seed}, step ${step}, ${key}`);
        const counted = [...subject.table.counts(key)].flatMap(([state, count]) => Array<string>(count).fill(state));
        assert.deepEqual(counted.sort(), found.map(({ state }) => state).sort());
      }
      for (const each of names) {
        const selecting = [...subject.services.keys()].filter((key) =>
          subject.expected(key).some((row) => (row as { workload: string }).workload === each),
        );
        assert.deepEqual([...subject.table.selecting(each)].sort(), selecting.sort(), `seed ${seed}, step ${step}`);
      }
    }
  }
});

test('a reader is told of each service whose backends are others, and of no other', async () => {
  const subject = new Subject();
  subject.setService('x/one', service('one', 'x', { app: 'one' }));
  subject.setService('x/two', service('two', 'x', { app: 'two' }));
  const reader = subject.table.read(() => undefined);
  const told = async (): Promise<string[]> => {
    await Promise.resolve();
    return [...reader.drain()].sort();
  };
  subject.setWorkload('a', workload('a', 'x', { app: 'one' }));
  assert.deepEqual(await told(), ['x/one']);
  subject.setRecord('a', record('192.0.2.1', undefined));
  assert.deepEqual(await told(), ['x/one']);
  // The same once more.
  subject.setRecord('a', record('192.0.2.1', undefined));
  subject.setWorkload('a', workload('a', 'x', { app: 'one', more: 'labels' }));
  assert.deepEqual(await told(), []);
  subject.setWorkload('a', workload('a', 'x', { app: 'two' }));
  assert.deepEqual(await told(), ['x/one', 'x/two']);
  subject.setWorkload('a', undefined);
  assert.deepEqual(await told(), ['x/two']);
  subject.setService('x/one', undefined);
  assert.deepEqual(await told(), ['x/one']);
});
