import assert from 'node:assert/strict';
import { chmodSync, chownSync, mkdirSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { closeObject, openPinned, pinObject } from '../../src/host/bpf/command.ts';
import { BpfMap, MAP_TYPE } from '../../src/host/bpf/map.ts';
import { Driver } from './suite/driver.ts';
import { all, ServicesLab, targets4, VIP, v4 } from './suite/services-lab.ts';
import type { Spec } from './suite/spec.ts';

// Whatever a new process finds pinned - half of what one that was killed had begun, things of others - it leads all services.

const KEY = '10.96.0.1 6 80';
const one: Spec = { services: { [KEY]: { targets: targets4 } } };
const many: Spec = {
  services: {
    [KEY]: { targets: targets4 },
    ...Object.fromEntries(
      Array.from({ length: 20_000 }, (_, n) => [
        `10.97.${n >> 8}.${n & 255} 6 80`,
        { targets: [targets4[0] as string] },
      ]),
    ),
  },
};

let lab: ServicesLab;
let driver: Driver;
before(async () => {
  lab = await ServicesLab.start({ container: false });
  driver = await lab.drive('sockets');
});
after(async () => {
  await driver?.close();
  await lab?.close();
});
beforeEach(async () => {
  await driver.apply(one);
  await assertLed();
  await driver.kill();
});

const pin = (pattern: RegExp): string => lab.pins().find((path) => pattern.test(path)) as string;
const generation = (): string => dirname(pin(/map_config$/));

async function assertLed(): Promise<void> {
  assert.deepEqual((await driver.status()).services, { at: 'socket' });
  assert.equal(all(await lab.connect(10, VIP.v4)), 'pass');
  assert.equal(lab.pins().filter((path) => /\/links\/link_/.test(path)).length, 9);
  assert.equal(lab.pins().filter((path) => /\/map_config$/.test(path)).length, 1, 'one generation');
}

/** A new process leads, from what it finds. */
async function assertMended(): Promise<void> {
  driver = await lab.drive('sockets');
  await driver.apply(one, 'everything');
  await assertLed();
}

/** Something of another kind in the place of a pin. */
function put(path: string, what: 'map' | 'folder' | 'link to nothing'): void {
  rmSync(path, { recursive: true });
  if (what === 'folder') mkdirSync(join(path, 'below'), { recursive: true });
  else if (what === 'link to nothing') symlinkSync(join(path, 'nothing'), path);
  else {
    const shape = { name: 'other', type: MAP_TYPE.hash, keyBytes: 4, valueBytes: 4, entries: 1, flags: 0 };
    const map = BpfMap.create(shape);
    map.pin(path);
    map.close();
  }
}

for (const what of ['map', 'folder', 'link to nothing'] as const) {
  for (const [where, pattern] of [
    ['a link', /link_connect4$/],
    ['a map', /map_slots4$/],
    ['a program', /program_connect4$/],
  ] as const) {
    test(`a ${what} in the place of ${where}`, async () => {
      put(pin(pattern), what);
      await assertMended();
    });
  }
}

test('a pin that nobody may use, and one in the place of a folder', async () => {
  chmodSync(pin(/map_services4$/), 0);
  chmodSync(pin(/link_sendmsg6$/), 0);
  await assertMended();
  await driver.kill();
  put(dirname(pin(/link_connect4$/)), 'map');
  await assertMended();
  await driver.kill();
  put(generation(), 'map');
  await assertMended();
});

test('maps and programs, but no links; half of the links', async () => {
  rmSync(dirname(pin(/link_connect4$/)), { recursive: true });
  await assertMended();
  await driver.kill();
  for (const name of ['recvmsg6', 'connect6', 'sendmsg4', 'sendmsg6']) rmSync(pin(new RegExp(`link_${name}$`)));
  await assertMended();
});

test('half of a generation, under the name of the next and under its own', async () => {
  renameSync(generation(), `${generation()}-new`);
  rmSync(pin(/map_slots6$/));
  await assertMended();
  await driver.kill();
  rmSync(pin(/program_recvmsg4$/));
  await assertMended();
});

test('a generation that was never told whose sockets it is for', async () => {
  const fd = openPinned(pin(/map_config$/), 'map') as number;
  closeObject(fd);
  const shape = { name: 'config', type: MAP_TYPE.array, keyBytes: 4, valueBytes: 16, entries: 1, flags: 0 };
  BpfMap.open(pin(/map_config$/), shape)?.put(Buffer.alloc(4), Buffer.alloc(16));
  await assertMended();
});

test('a larger generation beside the one that leads, whole and hardly filled', async () => {
  driver = await lab.drive('sockets');
  await driver.apply(many);
  await assertLed();
  const larger = generation();
  const kept = lab.pins().filter((path) => dirname(path) === larger);
  const fds = kept.map((path) => [path, openPinned(path, /map_/.test(path) ? 'map' : 'prog') as number] as const);
  await driver.close();
  rmSync(lab.pinFolder, { recursive: true });
  driver = await lab.drive('sockets');
  await driver.apply(one);
  const smaller = generation();
  assert.notEqual(smaller, larger);
  await driver.kill();
  mkdirSync(larger);
  for (const [path, fd] of fds) {
    pinObject(fd, path);
    closeObject(fd);
  }
  driver = await lab.drive('sockets');
  assert.deepEqual(
    (await driver.services()).map(({ address }) => address),
    [VIP.v4],
    'what leads is known before the services are',
  );
  await driver.apply(one, 'everything');
  await assertLed();
  assert.equal(generation(), smaller);
});

/** A process that cannot keep up what it finds pinned: packets are led, as it is wanted now, and by nothing else. */
async function assertLedByPackets(reason: RegExp, via?: readonly string[]): Promise<void> {
  const env = { MESH_TEST_BPF: lab.machine.namespace.bpf.path };
  driver = await Driver.start('sockets', lab.machine.namespace, { env, ...(via !== undefined && { via }) });
  await driver.apply({ services: { [KEY]: { targets: [targets4[1] as string] } } }, 'everything');
  const { services } = await driver.status();
  assert.equal(services?.at, 'packet');
  assert.match(services?.reason ?? '', reason);
  assert.deepEqual(lab.pins(), []);
  lab.forget();
  assert.equal(all(await lab.connect(20, VIP.v4)), 'pass');
  assert.deepEqual(Object.keys(lab.counts()), [v4(12)]);
  await driver.close();
  lab.machine.namespace.run('conntrack', '-F');
}

test('programs that cannot be loaded for lack of rights', async () => {
  rmSync(pin(/program_sendmsg4$/));
  await assertLedByPackets(/EPERM/, ['setpriv', '--bounding-set', '-all,+net_admin,+net_raw,+chown']);
  await assertMended();
});

test('pins in a folder that others may write to are taken away', async () => {
  chmodSync(lab.pinFolder, 0o777);
  await assertLedByPackets(/is not ours alone: it must be taken away/);
  await assertMended();
});

test('killed at any moment of a change, to less room and to more: no connection fails', async () => {
  const load = lab.load();
  for (let round = 0; round < 10; round++) {
    driver = await lab.drive('sockets');
    const change = driver.apply(round % 2 === 0 ? many : one, 'everything').catch(() => undefined);
    await new Promise((resolve) => setTimeout(resolve, 100 + round * 30));
    await driver.kill();
    await change;
  }
  assert.equal(all(await load.stop()), 'pass');
  await assertMended();
});

test('a folder of somebody else is not trusted', async () => {
  rmSync(lab.pinFolder, { recursive: true });
  mkdirSync(lab.pinFolder);
  chownSync(lab.pinFolder, 65534, 65534);
  await assertLedByPackets(/is not ours alone: it must be taken away/);
  rmSync(lab.pinFolder, { recursive: true, force: true });
  await assertMended();
});
