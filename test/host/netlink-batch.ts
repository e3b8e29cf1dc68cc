import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { constants } from 'node:os';
import { AttributeWriter } from '../../src/host/attributes.ts';
import { NETLINK_NETFILTER, NetlinkSocket } from '../../src/host/netlink.ts';
import { NetlinkError } from '../../src/host/netlink-error.ts';

// Started by netlink.test.ts in a network namespace of its own; prints the tables that are there at the end.
const NFT_MSG_NEWTABLE = 0xa00;
const BATCH_BEGIN = 0x10;
const BATCH_END = 0x11;

/** Tables with these names, created in one batch; an empty name is refused by the kernel. */
function tableBatch(
  socket: NetlinkSocket,
  names: readonly string[],
): { data: Buffer; firstSeq: number; lastSeq: number } {
  const writer = new AttributeWriter();
  const firstSeq = socket.takeSeq(names.length + 2);
  const subsystem = Buffer.from([0, 0, 0, 10]);
  const begin = writer.beginMessage({ type: BATCH_BEGIN, flags: 1, seq: firstSeq });
  writer.raw(subsystem);
  writer.endMessage(begin);
  names.forEach((name, index) => {
    const message = writer.beginMessage({ type: NFT_MSG_NEWTABLE, flags: 1 | 4 | 0x400, seq: firstSeq + 1 + index });
    writer.raw(Buffer.from([1, 0, 0, 0]));
    if (name !== '') writer.string(1, name);
    writer.endMessage(message);
  });
  const end = writer.beginMessage({ type: BATCH_END, flags: 1, seq: firstSeq + names.length + 1 });
  writer.raw(subsystem);
  writer.endMessage(end);
  return { data: Buffer.from(writer.bytes()), firstSeq, lastSeq: firstSeq + names.length };
}

const socket = new NetlinkSocket({ family: NETLINK_NETFILTER });
await socket.batch(tableBatch(socket, ['one', 'two']));
const bad = tableBatch(socket, ['three', '', 'four']);
await assert.rejects(socket.batch({ ...bad, operation: 'add tables' }), (error: unknown) => {
  assert.ok(error instanceof NetlinkError);
  assert.equal(error.seq, bad.firstSeq + 2);
  assert.equal(error.errno, constants.errno.EINVAL);
  return true;
});
socket.close();
process.stdout.write(spawnSync('nft', ['list', 'tables'], { encoding: 'utf8' }).stdout);
