import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import { BpfMap, MAP_TYPE } from '../../src/host/bpf/map.ts';
import { until } from '../lab/namespace.ts';
import type { Driver } from './suite/driver.ts';
import { all, ServicesLab, targets4, VIP } from './suite/services-lab.ts';
import type { Spec } from './suite/spec.ts';

// What others write to the maps of services is found, wherever it is, and put right; what we write is not taken for foreign.

const FRONTENDS = 5000;
const services: Exclude<Spec['services'], 'off' | undefined> = {
  '10.96.0.1 6 80': { targets: targets4 },
  ...Object.fromEntries(
    Array.from({ length: FRONTENDS }, (_, n) => [`10.97.${n >> 8}.${n & 255} 6 80`, { targets: targets4 }]),
  ),
};
const NO_PREALLOC = 1;
const CHOICE = { name: 'services4', keyBytes: 12, valueBytes: 16 };
const SLOT = { name: 'slots4', keyBytes: 16, valueBytes: 8 };

let lab: ServicesLab;
let driver: Driver;
before(async () => {
  lab = await ServicesLab.start({ container: false });
  driver = await lab.drive('sockets');
  await driver.apply({ services });
});
after(async () => {
  await driver?.close();
  await lab?.close();
});

let healed = 0;
beforeEach(async () => {
  healed = (await driver.status()).healed;
});

function change(shape: typeof CHOICE, work: (map: BpfMap) => void): void {
  const path = lab.pins().find((pin) => pin.endsWith(`/map_${shape.name}`)) as string;
  const map = BpfMap.open(path, { ...shape, type: MAP_TYPE.hash, entries: 0, flags: NO_PREALLOC }) as BpfMap;
  try {
    work(map);
  } finally {
    map.close();
  }
}

const frontend = (last: number): Buffer => Buffer.from([10, 96, 0, last, 6, 0, 0, 0, 0, 80, 0, 0]);
const slot = (number: number): Buffer => Buffer.concat([frontend(1), Buffer.from([number, 0, 0, 0])]);

async function assertHealed(): Promise<void> {
  await until('it was noticed', async () => (await driver.status()).healed > healed);
  assert.equal(all(await lab.connect(20, VIP.v4)), 'pass');
  const found = await driver.services();
  assert.equal(found.length, FRONTENDS + 1);
  assert.ok(found.every(({ targets }) => targets.length === 3 && targets.every(({ slots }) => slots === 1)));
}

test('a backend that others have exchanged', async () => {
  change(SLOT, (map) => map.put(slot(1), Buffer.from([10, 77, 0, 99, 0x1f, 0x90, 0, 0])));
  await assertHealed();
});

test('a backend and a frontend that others have taken away', async () => {
  change(SLOT, (map) => assert.ok(map.delete(slot(2))));
  change(CHOICE, (map) => assert.ok(map.delete(frontend(1))));
  await assertHealed();
});

test('a frontend that leads to another number of backends', async () => {
  change(CHOICE, (map) => map.put(frontend(1), Buffer.from([9, 0, 0, 0, ...Buffer.alloc(12)])));
  await assertHealed();
});

test('a frontend and backends that are none of ours, also of numbers that there cannot be', async () => {
  const impossible = Buffer.concat([frontend(7), Buffer.alloc(4, 255)]);
  change(CHOICE, (map) => map.put(frontend(7), Buffer.from([1, 0, 0, 0, ...Buffer.alloc(12)])));
  change(SLOT, (map) => {
    map.put(slot(200), Buffer.from([10, 77, 0, 99, 0x1f, 0x90, 0, 0]));
    map.put(impossible, Buffer.from([10, 77, 0, 99, 0x1f, 0x90, 0, 0]));
  });
  const left = (): number => {
    let count = 0;
    for (const [shape, key] of [
      [SLOT, slot(200)],
      [SLOT, impossible],
      [CHOICE, frontend(7)],
    ] as const)
      change(shape, (map) => {
        if (map.get(key) !== undefined) count++;
      });
    return count;
  };
  await until('it is gone', () => left() === 0);
  await assertHealed();
});

test('programs that were told of another network namespace', async () => {
  const path = lab.pins().find((pin) => pin.endsWith('/map_config')) as string;
  const shape = { name: 'config', type: MAP_TYPE.array, keyBytes: 4, valueBytes: 16, entries: 1, flags: 0 };
  const map = BpfMap.open(path, shape) as BpfMap;
  map.put(Buffer.alloc(4), Buffer.alloc(16));
  map.close();
  await assertHealed();
});

test('our own changes, one after the other, are not taken for foreign ones', async () => {
  const known = driver.events.length;
  for (let round = 0; round < 40; round++) {
    const some = Object.fromEntries(
      Array.from({ length: 200 }, (_, n) => [
        `10.98.${n >> 8}.${n & 255} 6 80`,
        { targets: targets4.slice(0, 1 + ((round + n) % 3)) },
      ]),
    );
    await driver.apply({ services: round % 4 === 3 ? services : { ...services, ...some } });
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
  assert.deepEqual(driver.events.slice(known), []);
});
