import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { BpfMap, MAP_TYPE } from '../../src/host/bpf/map.ts';
import { until } from '../lab/namespace.ts';
import type { Driver } from './suite/driver.ts';
import { buildSocketProgram, ServicesLab, VIP, v4 } from './suite/services-lab.ts';

// Whose datagrams stay where they are when the backends of a service change, and whose do not.

const CLIENT = join(import.meta.dirname, 'socket-client.ts');
const KEY = '10.96.0.1 17 53';
const backend = (host: number): string => `${v4(host)} 8080`;
/** Time in which two looks at all flows are over. */
const LOOKED_MS = 2500;

let lab: ServicesLab;
let driver: Driver;
let folder: string;
let program: string;
before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'mesh-flows-'));
  program = buildSocketProgram(folder);
  lab = await ServicesLab.start({ container: false });
  driver = await lab.drive('sockets');
});
after(async () => {
  await driver?.close();
  await lab?.close();
  rmSync(folder, { recursive: true, force: true });
});

interface Stay {
  /** How often its socket was taken from it. */
  readonly failures: () => number;
  end(): void;
}

/** A program that keeps a connected socket to this end, and has had an answer. */
async function stay(address: string, port: number): Promise<Stay> {
  const run = [process.execPath, '--no-warnings', CLIENT, 'stay', address, String(port)] as const;
  const child = lab.machine.namespace.start(run[0], run.slice(1));
  const seen: { answer?: true; failed?: string }[] = [];
  createInterface({ input: child.stdout as NodeJS.ReadableStream }).on('line', (line) => seen.push(JSON.parse(line)));
  await until('it has an answer', () => seen.some(({ answer }) => answer));
  return { failures: () => seen.filter(({ failed }) => failed !== undefined).length, end: () => child.kill() };
}

test('a socket that talks to a backend of its own accord outlives the service', async () => {
  await driver.apply({ services: { [KEY]: { targets: [backend(11)] } } });
  const [led, direct] = await Promise.all([stay(VIP.v4, 53), stay(v4(11), 8080)]);
  await driver.apply({ services: { [KEY]: { targets: [backend(12)] } } });
  await until('the one that was led is ended', () => led.failures() === 1);
  await sleep(LOOKED_MS);
  assert.deepEqual([led.failures(), direct.failures()], [1, 0]);
  led.end();
  direct.end();
});

test('a socket whose backend has the address of the frontend stays with it', async () => {
  const key = `${v4(11)} 17 8080`;
  await driver.apply({ services: { [key]: { targets: [backend(11)] } } });
  const own = await stay(v4(11), 8080);
  await driver.apply({ services: { [key]: { targets: [backend(11), backend(12)] } } });
  await sleep(LOOKED_MS);
  assert.equal(own.failures(), 0);
  await driver.apply({ services: { [key]: { targets: [backend(12)] } } });
  await until('it is ended when that leaves', () => own.failures() === 1);
  own.end();
});

test('a socket that only sends is ended when its backend leaves, however many others have come and gone', async () => {
  await driver.apply({ services: { [KEY]: { targets: [backend(11)] } } });
  const child = lab.machine.namespace.start(program, ['udp4', 'connect', VIP.v4, '53', 'hold']);
  const seen: string[] = [];
  createInterface({ input: child.stdout as NodeJS.ReadableStream }).on('line', (line) => seen.push(line));
  await until('it is connected', () => seen.includes('connect done'));
  assert.equal(lab.machine.namespace.run(program, 'storm', VIP.v4, '53'), 'storm 0 failed\n');
  await driver.apply({ services: { [KEY]: { targets: [backend(12)] } } });
  await until('it is ended', () => seen.includes('hold EDESTADDRREQ'));
});

test('what a process that was killed had no time to look at, the next one does', async () => {
  await driver.apply({ services: { [KEY]: { targets: [backend(11)] } } });
  lab.forget();
  const flow = await lab.machine.flow(VIP.v4, 53, { everyMs: 10 });
  const connected = await stay(VIP.v4, 53);
  await until('it has its backend', () => (lab.counts()[v4(11)] ?? 0) > 0);
  await driver.kill();
  // It had written the change.
  const path = lab.pins().find((pin) => pin.endsWith('/map_slots4')) as string;
  const shape = { name: 'slots4', type: MAP_TYPE.hash, keyBytes: 16, valueBytes: 8, entries: 0, flags: 1 };
  const map = BpfMap.open(path, shape) as BpfMap;
  map.put(
    Buffer.from([10, 96, 0, 1, 17, 0, 0, 0, 0, 53, 0, 0, 0, 0, 0, 0]),
    Buffer.from([10, 77, 0, 12, 31, 144, 0, 0]),
  );
  map.close();
  driver = await lab.drive('sockets');
  const { added, removed } = await driver.apply({ services: { [KEY]: { targets: [backend(12)] } } }, 'everything');
  assert.deepEqual([added, removed], [0, 0]);
  await until('the flow has the other backend', () => (lab.counts()[v4(12)] ?? 0) > 0);
  await until('the socket that was connected is ended', () => connected.failures() === 1);
  await flow.stop();
  connected.end();
});
