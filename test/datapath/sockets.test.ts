import assert from 'node:assert/strict';
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { closeObject, openPinned } from '../../src/host/bpf/command.ts';
import { linkInfo } from '../../src/host/bpf/program.ts';
import { native } from '../../src/host/load-native.ts';
import { until } from '../lab/namespace.ts';
import type { Driver } from './suite/driver.ts';
import { all, SERVICES, ServicesLab, targets4, VIP, v4 } from './suite/services-lab.ts';
import type { Spec } from './suite/spec.ts';

// Services at the socket: what programs see, what outlives us, and how it goes over to packets and back.

const CLIENT = join(import.meta.dirname, 'socket-client.ts');
const KEY = '10.96.0.1 6 80';
const UDP_KEY = '10.96.0.1 17 53';
const one: Spec = { services: { [KEY]: { targets: targets4 } } };

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

const at = async (): Promise<string | undefined> => (await driver.status()).services?.at;
const chains = (): string => lab.machine.namespace.run('nft', 'list', 'chains', 'inet');
const isTranslated = (): boolean => chains().includes('type nat');
const forward = (on: boolean): string =>
  lab.machine.namespace.run('sysctl', '-q', '-w', `net.ipv4.ip_forward=${on ? 1 : 0}`);

const pins = (): string[] => lab.pins();
const linkPins = (): string[] => pins().filter((path) => /\/links\/link_/.test(path));

/** Numbers of the programs that are attached, by pin. */
function attached(): Record<string, number> {
  return Object.fromEntries(
    linkPins().map((path) => {
      const fd = openPinned(path, 'link') as number;
      const { program } = linkInfo(fd);
      closeObject(fd);
      return [path, program];
    }),
  );
}

test('programs see the frontend that they asked for, over either family and mapped addresses', async () => {
  await driver.apply({ services: SERVICES });
  assert.equal(await at(), 'socket');
  assert.equal(isTranslated(), false, 'no packet is translated');
  for (const host of [VIP.v4, VIP.v6, `::ffff:${VIP.v4}`]) {
    const text = lab.machine.namespace.run(process.execPath, '--no-warnings', CLIENT, 'names', host, '80', '53');
    const { tcp, ...udp } = JSON.parse(text);
    assert.equal(tcp, `${host} 80`);
    for (const [how, peer] of Object.entries(udp)) assert.equal(peer, `${host} 53`, `${host} ${how}`);
  }
});

test('a connected datagram socket is ended when its backend leaves, and the next one finds another', async () => {
  await driver.apply({ services: { [UDP_KEY]: { targets: [targets4[0] as string] } } });
  const child = lab.machine.namespace.start(process.execPath, ['--no-warnings', CLIENT, 'stay', VIP.v4, '53']);
  const seen: { answer?: true; failed?: string }[] = [];
  createInterface({ input: child.stdout as NodeJS.ReadableStream }).on('line', (line) => seen.push(JSON.parse(line)));
  await until('it has an answer', () => seen.some(({ answer }) => answer));
  lab.forget();
  await driver.apply({ services: { [UDP_KEY]: { targets: [targets4[1] as string] } } });
  await until('it fails', () => seen.some(({ failed }) => failed !== undefined));
  await until('the other backend has it', () => (lab.counts()[v4(12)] ?? 0) > 0);
  assert.deepEqual(seen.map(({ failed }) => failed).filter((failed) => failed !== undefined).length, 1);
  child.kill();
});

test('sockets of other network namespaces are left alone', async () => {
  await driver.apply(one);
  lab.router.namespace.run('ip', 'route', 'add', '10.96.0.0/16', 'via', v4(11));
  lab.forget();
  assert.notEqual(await lab.router.probe({ protocol: 'tcp', to: VIP.v4, port: 80 }), 'pass');
  assert.deepEqual(lab.counts(), {});
  lab.router.namespace.run('ip', 'route', 'del', '10.96.0.0/16', 'via', v4(11));
});

test('what is attached outlives the process, and the next one changes nothing', async () => {
  await driver.apply({ services: SERVICES });
  const before = attached();
  assert.equal(Object.keys(before).length, 9);
  await driver.kill();
  lab.forget();
  assert.equal(all(await lab.connect(30, VIP.v4)), 'pass');
  assert.equal(Object.keys(lab.counts()).length, 3);
  driver = await lab.drive('sockets');
  const report = await driver.apply({ services: SERVICES }, 'everything');
  assert.deepEqual([report.added, report.removed], [0, 0]);
  assert.deepEqual(attached(), before);
});

test('a process that does not know of services leaves them in force', async () => {
  await driver.close();
  driver = await lab.drive('sockets');
  await driver.apply({}, 'everything');
  assert.equal(all(await lab.connect(10, VIP.v4)), 'pass');
  assert.equal((await driver.services()).length > 0, true);
});

test('what others take away is put back', async () => {
  await driver.apply(one);
  const [path = '', other = ''] = linkPins();
  rmSync(path);
  await until('the pin is back', () => linkPins().length === 9);
  // BPF_LINK_DETACH.
  const fd = openPinned(other, 'link') as number;
  const attr = Buffer.alloc(16);
  attr.writeUInt32LE(fd);
  assert.equal(native().bpf(34, attr), 0);
  assert.equal(linkInfo(fd).target, 0n);
  closeObject(fd);
  await until('it is attached again', () => {
    const found = openPinned(other, 'link');
    if (found === undefined) return false;
    const { target } = linkInfo(found);
    closeObject(found);
    return target !== 0n;
  });
  assert.ok((await driver.status()).healed >= 2);
  assert.equal(all(await lab.connect(10, VIP.v4)), 'pass');
});

test('more services than there is room for: no connection fails, and a flow of datagrams stays', async () => {
  const flowKey = { [UDP_KEY]: { targets: targets4 } };
  await driver.apply({ services: { [KEY]: { targets: targets4 }, ...flowKey } });
  lab.forget();
  const flow = await lab.machine.flow(VIP.v4, 53, { everyMs: 10 });
  await until('the flow has its backend', () => Object.keys(lab.counts()).length === 1);
  const [backend = ''] = Object.keys(lab.counts());
  const connections = lab.load();
  const many = Object.fromEntries(
    Array.from({ length: 20_000 }, (_, n) => [`10.97.${n >> 8}.${n & 255} 6 80`, { targets: [targets4[0] as string] }]),
  );
  const before = attached();
  await driver.apply({ services: { [KEY]: { targets: targets4 }, ...flowKey, ...many } });
  assert.equal(all(await connections.stop()), 'pass');
  assert.notDeepEqual(attached(), before, 'other programs lead now');
  assert.equal((await driver.services()).length, 20_002);
  // Of TCP there were some at each backend: only the flow is left.
  await new Promise((resolve) => setTimeout(resolve, 300));
  lab.forget();
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.deepEqual(
    Object.keys(lab.counts()).filter((each) => each !== backend),
    [],
  );
  const { sent, received } = await flow.stop();
  assert.equal(received, sent);
  assert.equal(new Set(pins().map((path) => path.split('/').at(-2))).size, 2, 'the smaller maps are gone');
  await driver.apply(one);
});

test('packets are led, too, while the machine forwards those of others, and no longer than it must', async () => {
  await driver.apply(one);
  const long = await lab.machine.open(VIP.v4, 80);
  forward(true);
  await until('packets are led', async () => (await at()) === 'both');
  assert.equal(isTranslated(), true);
  const [frontend] = await driver.services();
  assert.equal(frontend?.at, 'both');
  assert.equal(all(await lab.connect(20, VIP.v4)), 'pass');
  forward(false);
  await until('only sockets lead', async () => (await at()) === 'socket');
  const device = (on: number) => lab.machine.namespace.run('sysctl', '-qw', `net.ipv4.conf.eth0.forwarding=${on}`);
  device(1);
  await until('packets are led that one device lets through', async () => (await at()) === 'both');
  device(0);
  await until('only sockets lead again', async () => (await at()) === 'socket');
  assert.equal(await long.check(), 'pass');
  await long.close();
  await driver.close();
  driver = await lab.drive('sockets');
  await driver.apply(one, 'everything');
  assert.equal(isTranslated(), false, 'nobody had a translated connection');
});

test('between sockets and packets no connection fails; those that are translated stay so', async () => {
  await driver.apply(one);
  const connections = lab.load();
  await driver.close();
  driver = await lab.drive('sockets', { MESH_TEST_SOCKETS: 'off' });
  await driver.apply(one, 'everything');
  assert.equal(await at(), 'packet');
  assert.match((await driver.status()).services?.reason ?? '', /wants no eBPF/);
  assert.deepEqual(pins(), []);
  const long = await lab.machine.open(VIP.v4, 80);
  await driver.close();
  driver = await lab.drive('sockets');
  await driver.apply(one, 'everything');
  assert.equal(await at(), 'socket');
  assert.equal(all(await connections.stop()), 'pass');
  assert.equal(isTranslated(), true);
  assert.equal(await long.check(), 'pass');
  await long.close();
  lab.machine.namespace.run('conntrack', '-F');
  await driver.close();
  driver = await lab.drive('sockets');
  await driver.apply(one, 'everything');
  assert.equal(isTranslated(), false);
  assert.equal(all(await lab.connect(10, VIP.v4)), 'pass');
});

test('without a BPF file system packets are led, and the status says why', async () => {
  await driver.close();
  driver = await lab.drive('sockets', { MESH_TEST_BPF: '/nowhere' });
  await driver.apply(one, 'everything');
  const { services } = await driver.status();
  assert.deepEqual(services, {
    at: 'packet',
    reason: 'this machine cannot do eBPF as it is: no BPF file system is mounted on /nowhere',
  });
  assert.equal(all(await lab.connect(10, VIP.v4)), 'pass');
  await driver.close();
  driver = await lab.drive('sockets');
  await driver.apply(one, 'everything');
});

test('services that are switched off, and what is removed, leave nothing behind', async () => {
  await driver.apply({ services: SERVICES });
  await driver.apply({ services: 'off' });
  assert.deepEqual(pins(), []);
  assert.deepEqual(await driver.services(), []);
  assert.equal(chains().includes('lb_'), false);
  await driver.apply(one);
  assert.equal(await at(), 'socket');
  await driver.order('remove');
  assert.equal(existsSync(lab.pinFolder), false);
  assert.equal(chains(), '');
});
