import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { constants } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Attributes } from '../../src/host/attributes.ts';
import { NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket } from '../../src/host/netlink.ts';
import { NetlinkError } from '../../src/host/netlink-error.ts';

const RTM_NEWLINK = 16;
const RTM_GETLINK = 18;
const IFLA_IFNAME = 3;
const NFT_MSG_GETGEN = 0xa10;
const IFINFO_LENGTH = 16;

function open(options: Partial<ConstructorParameters<typeof NetlinkSocket>[0]> = {}): NetlinkSocket {
  return new NetlinkSocket({ family: NETLINK_ROUTE, ...options });
}

function linkRequest(index: number): Buffer {
  const body = Buffer.alloc(IFINFO_LENGTH);
  body.writeInt32LE(index, 4);
  return body;
}

test('a dump lists the loopback device', async () => {
  const socket = open();
  const names: (string | undefined)[] = [];
  const result = await socket.dump({ type: RTM_GETLINK, body: linkRequest(0) }, (message) => {
    assert.equal(message.type, RTM_NEWLINK);
    names.push(new Attributes(message.body, IFINFO_LENGTH).string(IFLA_IFNAME));
  });
  assert.ok(names.includes('lo'), names.join());
  assert.equal(result.interrupted, false);
  socket.close();
});

test('dumps that are asked for together run one after the other', async () => {
  const socket = open();
  const count = async (): Promise<number> => {
    let links = 0;
    await socket.dump({ type: RTM_GETLINK, body: linkRequest(0) }, () => links++);
    return links;
  };
  const counts = await Promise.all([count(), count(), count()]);
  assert.ok(
    counts.every((links) => links > 0 && links === counts[0]),
    counts.join(),
  );
  socket.close();
});

test('a listener that throws fails its dump and leaves the socket usable', async () => {
  const socket = open();
  const failing = socket.dump({ type: RTM_GETLINK, body: linkRequest(0) }, () => {
    throw new Error('listener');
  });
  await assert.rejects(failing, /listener/);
  assert.equal((await socket.request({ type: RTM_GETLINK, body: linkRequest(1) })).length, 1);
  socket.close();
});

test('a refused request names the errno, the operation and its sequence number', async () => {
  const socket = open();
  const request = socket.request({ type: RTM_GETLINK, body: linkRequest(0x7ffffff0), operation: 'get link' });
  await assert.rejects(request, (error: unknown) => {
    assert.ok(error instanceof NetlinkError);
    assert.equal(error.code, 'HST-NETLINK');
    assert.equal(error.errno, constants.errno.ENODEV);
    assert.equal(error.errnoName, 'ENODEV');
    assert.ok(error.seq > 0);
    assert.match(error.message, /get link: ENODEV/);
    return true;
  });
  socket.close();
});

test('an unknown netlink family is refused at once', () => {
  assert.throws(() => open({ family: 31 }), NetlinkError);
});

test('what is in flight when the socket is closed fails', async () => {
  const socket = open();
  const request = socket.request({ type: RTM_GETLINK, body: linkRequest(1) });
  socket.close();
  await assert.rejects(request, /ECANCELED/);
  await assert.rejects(socket.request({ type: RTM_GETLINK, body: linkRequest(1) }), /ECANCELED/);
});

test('nftables tells its generation', async () => {
  const socket = open({ family: NETLINK_NETFILTER });
  const [body] = await socket.request({ type: NFT_MSG_GETGEN, body: Buffer.alloc(4) });
  assert.ok(body !== undefined);
  assert.equal(typeof new Attributes(body, 4).u32be(1), 'number');
  socket.close();
});

test('a batch is applied whole, and an error in the middle names its message and undoes everything', () => {
  const program = join(import.meta.dirname, 'netlink-batch.ts');
  const result = spawnSync('unshare', ['-n', process.execPath, program], { encoding: 'utf8' });
  assert.equal(result.status, 0, result.stderr);
  assert.equal(result.stdout, 'table inet one\ntable inet two\n');
});

test('lost events are told, and the socket lives on', () => {
  const program = join(import.meta.dirname, 'netlink-events.ts');
  const result = spawnSync('unshare', ['-n', process.execPath, program], { encoding: 'utf8', timeout: 30_000 });
  assert.equal(result.stdout, 'lost true, then after\n', result.stderr);
});

test('an exception in a callback of the native module becomes an uncaughtException', () => {
  const program = join(import.meta.dirname, 'netlink-throw.ts');
  const result = spawnSync(process.execPath, [program], { encoding: 'utf8', timeout: 30_000 });
  assert.equal(result.stdout, 'uncaught from the callback\n', result.stderr);
});

test('an idle socket does not keep the process alive', () => {
  const module = join(import.meta.dirname, '../../src/host/netlink.ts');
  const program = `import { NetlinkSocket } from ${JSON.stringify(module)};
    const socket = new NetlinkSocket({ family: 0 });
    await socket.request({ type: 18, body: Buffer.from([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) });`;
  const args = ['--input-type=module', '-e', program];
  const result = spawnSync(process.execPath, args, { encoding: 'utf8', timeout: 30_000 });
  assert.equal(result.status, 0, result.stderr);
});
