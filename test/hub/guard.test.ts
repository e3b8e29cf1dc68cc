import assert from 'node:assert/strict';
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { connect as connectHttp2 } from 'node:http2';
import { connect as connectTcp } from 'node:net';
import { after, before, test } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { promisify } from 'node:util';
import fc from 'fast-check';
import type { MeshError } from '../../src/core/errors.ts';
import { hostAndPort } from '../../src/hub/etcd/arguments.ts';
import { openMachineAccess } from '../../src/hub/etcd/machine-access.ts';
import { checkRequest, isAllowed } from '../../src/hub/guard/check-request.ts';
import { MessageSplitter } from '../../src/hub/guard/message-splitter.ts';
import { WriteLimit } from '../../src/hub/guard/write-limit.ts';
import type { EtcdOptions } from '../../src/kvstore/etcd-config.ts';
import { encodePut, encodeWatchCreate } from '../../src/kvstore/messages.ts';
import { encodeTransaction } from '../../src/kvstore/transaction.ts';
import { WireWriter } from '../../src/kvstore/wire.ts';
import type { WriterStore } from '../../src/kvstore/writer-store.ts';
import { endProcess, until } from '../lab/namespace.ts';
import { TcpProxy } from '../lab/proxy.ts';
import { HubProcess } from './hub-process.ts';

const TXN = '/etcdserverpb.KV/Txn';
const WATCH = '/etcdserverpb.Watch/Watch';
let lab: HubProcess;
let admin: WriterStore;
let vm: EtcdOptions;

before(async () => {
  process.env.MESH_TEST_HUB_PARTS = 'all';
  lab = await HubProcess.make();
  await lab.run();
  admin = lab.open();
  await openMachineAccess({ session: admin.session, cluster: 'vms', onRevoked: () => {} }).grant('vm1');
  vm = await lab.client('machine:vm1');
});
after(() => lab.close());

test('honest requests pass, and every shape for which etcd forgets rights is refused, however it is written', () => {
  const put = encodePut('a', Buffer.from('b'), 0n);
  const operation = (field: number, message: Buffer): Buffer => new WireWriter().presentBytes(field, message).finish();
  const within = (...operations: Buffer[]): Buffer => {
    const writer = new WireWriter();
    for (const each of operations) writer.presentBytes(2, each);
    return writer.finish();
  };
  assert.equal(
    checkRequest(TXN, within(operation(2, put), operation(1, Buffer.alloc(0)), operation(3, put))),
    undefined,
  );
  assert.equal(checkRequest(WATCH, encodeWatchCreate(1, { key: 'a', rangeEnd: Buffer.from('b') }, 0)), undefined);
  const nested = operation(4, Buffer.alloc(0));
  const bad = [
    within(nested),
    within(operation(2, put), nested),
    // Both in one operation: the last one counts for etcd.
    within(Buffer.concat([operation(2, put), nested])),
    new WireWriter().presentBytes(3, nested).finish(),
    within(operation(2, encodePut('a', Buffer.from('b'), 5n))),
    within(operation(2, Buffer.concat([put, new WireWriter().bool(4, true).finish()]))),
    encodeTransaction({ perform: [{ transaction: {} }] }),
    // A tag of more than 32 bits, which a careless reader cuts.
    Buffer.concat([Buffer.from([0x92, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10]), Buffer.from([2, 0x22, 0])]),
    Buffer.from([0x12, 0x80]),
    Buffer.from([0x13]),
  ];
  for (const [index, message] of bad.entries())
    assert.notEqual(checkRequest(TXN, message), undefined, `transaction ${index}`);
  const open = { key: 'a', rangeEnd: Buffer.from([0]) };
  const create = encodeWatchCreate(1, open, 0);
  const harmless = encodeWatchCreate(2, { key: 'a' }, 0);
  for (const message of [create, Buffer.concat([create, harmless]), Buffer.concat([harmless, create])])
    assert.notEqual(checkRequest(WATCH, message), undefined);
  for (const path of [
    '/etcdserverpb.KV/Compact',
    '/etcdserverpb.toString',
    '/etcdserverpb.__proto__',
    '/v3lockpb.Lock/Lock',
    TXN.toLowerCase(),
    `${TXN}/`,
  ])
    assert.equal(isAllowed(path), false, path);
});

test('whatever bytes come, the check neither throws nor hangs', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.constantFrom(TXN, WATCH), (bytes, path) => {
      const answer = checkRequest(path, Buffer.from(bytes));
      assert.ok(answer === undefined || typeof answer === 'string');
    }),
    { numRuns: 3000 },
  );
});

test('messages come out whole, however the bytes are cut', () => {
  fc.assert(
    fc.property(
      fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 8 }),
      fc.array(fc.nat(30), { maxLength: 30 }),
      (messages, cuts) => {
        const frame = (message: Uint8Array): Buffer => {
          const head = Buffer.alloc(5);
          head.writeUInt32BE(message.length, 1);
          return Buffer.concat([head, message]);
        };
        let rest = Buffer.concat(messages.map(frame));
        const splitter = new MessageSplitter(100);
        const found: Buffer[] = [];
        for (const cut of [...cuts, rest.length]) {
          found.push(...splitter.push(rest.subarray(0, cut)).map(({ message }) => Buffer.from(message)));
          rest = rest.subarray(cut);
        }
        assert.deepEqual(
          found,
          messages.map((message) => Buffer.from(message)),
        );
        assert.ok(splitter.empty);
      },
    ),
  );
  assert.throws(() => new MessageSplitter(100).push(Buffer.from([1, 0, 0, 0, 0])), RangeError);
  assert.throws(() => new MessageSplitter(100).push(Buffer.from([0, 0, 0, 0, 101])), RangeError);
});

const etcdctl = (...args: string[]): string[] => [
  ...['--endpoints', lab.endpoint, '--cacert', vm.ca ?? '', '--cert', vm.cert ?? '', '--key', vm.key ?? ''],
  ...['--command-timeout', '5s', ...args],
];
const run = promisify(execFile);

test("etcd's own client reads, watches and writes through the guard, and hears in its own words what it must not", async () => {
  await admin.put('cilium/cache/a', '1');
  assert.equal((await run('etcdctl', etcdctl('get', '--prefix', 'cilium/cache/'))).stdout, 'cilium/cache/a\n1\n');
  await run('etcdctl', etcdctl('put', 'cilium/state/noderegister/v1/vm1', 'x'));
  for (const args of [
    ['put', 'cilium/x', 'y'],
    ['get', 'mesh-agent/v1/tokens/a'],
    ['compact', '5'],
    ['user', 'list'],
    ['alarm', 'list'],
  ])
    await assert.rejects(run('etcdctl', etcdctl(...args)), /permission denied/, args.join(' '));
  const watcher: ChildProcess = spawn('etcdctl', etcdctl('watch', '--prefix', 'cilium/cache/'), {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let seen = '';
  watcher.stdout?.on('data', (data: Buffer) => {
    seen += data.toString();
  });
  await until('the watch sees a change', async () => {
    await admin.put('cilium/cache/b', String(Date.now()));
    return seen.includes('cilium/cache/b');
  });
  await endProcess(watcher);
});

test('a list of many megabytes and a value of the largest size pass unchanged', async () => {
  const store = lab.open(vm);
  const keys = admin.leasedKeys({ prefixes: ['cilium/cache/ip/'], rate: 1e9 });
  const value = 'x'.repeat(1000);
  for (let i = 0; i < 10_000; i++) keys.set(`cilium/cache/ip/${i}`, `${value}${i}`);
  await keys.settled();
  const list = await store.list('cilium/cache/ip/');
  assert.equal(list.length, 10_000);
  assert.ok(list.every(({ key, value: found }) => found.toString() === `${value}${key}`));
  await keys.close();
  const large = Buffer.alloc(1_400_000, 'y');
  await store.put('cilium/state/noderegister/v1/vm1', large);
  assert.ok((await store.get('cilium/state/noderegister/v1/vm1'))?.value.equals(large));
  await assert.rejects(
    store.put('cilium/state/noderegister/v1/vm1', Buffer.alloc(3 << 20)),
    /more than|too large|larger/,
  );
  assert.ok((await store.get('cilium/state/noderegister/v1/vm1'))?.value.equals(large));
});

test('a stranger, a silent one and one who speaks nonsense do not disturb anybody', async () => {
  const { host, port } = hostAndPort(lab.config.listen.etcd);
  const sockets = [
    ...Array.from({ length: 20 }, () => connectTcp(port, host)),
    connectTls({ port, host, rejectUnauthorized: false, ALPNProtocols: ['h2'] }),
    connectTls({ port, host, rejectUnauthorized: false, ALPNProtocols: ['http/1.1'] }),
  ];
  for (const socket of sockets) socket.on('error', () => {});
  sockets[0]?.write('GET / HTTP/1.1\r\n\r\n');
  sockets[1]?.write(Buffer.alloc(1000, 0xff));
  const store = lab.open(vm);
  await store.get('cilium/.heartbeat');
  await until(
    'the one without a certificate is out',
    () => sockets.at(-1)?.destroyed === true && sockets.at(-2)?.destroyed === true,
  );
  for (const socket of sockets) socket.destroy();
  assert.ok(lab.running);
});

test('clients that leave as soon as they are there do not disturb anybody', async () => {
  const files = { ca: vm.ca, cert: vm.cert, key: vm.key };
  const own = Object.fromEntries(Object.entries(files).map(([name, path]) => [name, readFileSync(path ?? '')]));
  const visit = async (stayMs: number): Promise<void> => {
    const session = connectHttp2(lab.endpoint, { ...own, checkServerIdentity: () => undefined });
    session.on('error', () => {});
    await new Promise((resolve) => session.once('connect', resolve).once('close', resolve));
    await new Promise((resolve) => setTimeout(resolve, stayMs));
    session.destroy();
  };
  for (let round = 0; round < 100; round++)
    await Promise.all(Array.from({ length: 8 }, () => visit(Math.random() * 12)));
  await lab.open(vm).get('cilium/.heartbeat');
  assert.ok(lab.running, lab.log);
});

test('connections of one user are limited, and those of others are not', async () => {
  const stores = Array.from({ length: 34 }, () => lab.open(vm));
  await until('as many as may are in', () => stores.filter(({ status }) => status.state === 'connected').length >= 25);
  const other = lab.open(await lab.client('machine:vm2'));
  await until('another user gets an answer', () => /denied|connected/.test(other.status.summary));
  const { guard } = await lab.status();
  assert.ok((guard?.connections ?? 0) <= 34 && (guard?.refused ?? 0) > 0);
  await Promise.all(stores.map((store) => store.close()));
});

test('a client whose line is dead is given up within half a minute, and one that is only quiet is not', async () => {
  const proxy = await TcpProxy.start(lab.endpoint);
  const access = openMachineAccess({ session: admin.session, cluster: 'vms', onRevoked: () => {} });
  await Promise.all(['vm4', 'vm5', 'vm6'].map((name) => access.grant(name)));
  const told = async (name: string): Promise<boolean> =>
    (await admin.list('mesh-agent/v1/connections/')).some(({ key }) => key.endsWith(`/${name}`));
  const quietly = await lab.client('machine:vm4');
  // A client that says nothing by itself: it answers when it is asked.
  const quiet = connectHttp2(lab.endpoint, {
    ...{
      ca: readFileSync(quietly.ca ?? ''),
      cert: readFileSync(quietly.cert ?? ''),
      key: readFileSync(quietly.key ?? ''),
    },
    checkServerIdentity: () => undefined,
  });
  quiet.on('error', () => {});
  const far = await lab.client('machine:vm5');
  const store = lab.open({ ...far, endpoints: [`https://127.0.0.1:${proxy.port}`] });
  await store.get('cilium/.heartbeat');
  // One that hangs while there is much to be sent to it.
  const { cert = '', key = '' } = await lab.client('machine:vm6');
  const args = etcdctl('watch', '--prefix', 'cilium/cache/large');
  const own = args.map((arg) => (arg === vm.cert ? cert : arg === vm.key ? key : arg));
  const hung = spawn('etcdctl', own, { stdio: 'ignore' });
  await until('all hubs are told', async () => (await Promise.all(['vm4', 'vm5', 'vm6'].map(told))).every(Boolean));
  proxy.blackhole();
  hung.kill('SIGSTOP');
  for (let i = 0; i < 20; i++) await admin.put('cilium/cache/large', Buffer.alloc(1_000_000, i));
  await until('the dead ones are given up', async () => !(await told('vm5')) && !(await told('vm6')), 30_000);
  hung.kill('SIGKILL');
  assert.equal(await told('vm4'), true);
  assert.equal(quiet.closed || quiet.destroyed, false);
  quiet.destroy();
  await until('who leaves is told at once', async () => !(await told('vm4')), 5000);
  await store.close();
  await proxy.close();
});

test('a machine that writes without a pause is held back, in words that clients know, and nobody else is', async () => {
  const key = 'cilium/state/noderegister/v1/vm3';
  await openMachineAccess({ session: admin.session, cluster: 'vms', onRevoked: () => {} }).grant('vm3');
  const [greedy, other] = [lab.open(await lab.client('machine:vm3')), lab.open(await lab.client('machine:vm3'))];
  await greedy.get(key);
  await other.get(key);
  const outcomes = await Promise.allSettled(
    Array.from({ length: 400 }, (_, i) => (i % 2 === 0 ? greedy : other).put(key, String(i))),
  );
  const refused = outcomes.filter((outcome) => outcome.status === 'rejected');
  const codes = new Set(refused.map(({ reason }) => (reason as MeshError).code));
  assert.ok(refused.length >= 100, `${refused.length} refused`);
  assert.deepEqual([...codes], ['KVS-BUSY']);
  // It may still read, and write again after a moment.
  await greedy.get(key);
  await admin.put('cilium/cache/b', 'of the hub');
  await until('one more is taken', () =>
    greedy.put(key, 'again').then(
      () => true,
      () => false,
    ),
  );
});

test('how much a user has written is not forgotten by connecting anew, and is forgotten in the end', () => {
  let now = 0;
  const limit = new WriteLimit(() => now);
  const put = (user: string, bytes = 10): boolean => limit.admits(user, '/etcdserverpb.KV/Put', bytes);
  assert.ok(put('large', 1 << 20));
  assert.equal(put('large'), false);
  assert.ok(put('small'));
  assert.ok(limit.admits('large', '/etcdserverpb.KV/Range', 10));
  limit.left('large');
  assert.equal(put('large'), false);
  now = 60_000;
  limit.left('large');
  limit.left('small');
  assert.equal(limit.size, 0);
});
