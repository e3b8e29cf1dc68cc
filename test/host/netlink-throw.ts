import { native } from '../../src/host/load-native.ts';
import { NETLINK_ROUTE } from '../../src/host/netlink.ts';

// Started by netlink.test.ts: a callback that throws must end in uncaughtException, like any other.
process.on('uncaughtException', (error) => {
  process.stdout.write(`uncaught ${error.message}\n`);
  native().netlinkClose(handle);
});
const handle = native().netlinkOpen(NETLINK_ROUTE, () => {
  throw new Error('from the callback');
});
native().netlinkRef(handle, true);
const request = Buffer.alloc(32);
request.writeUInt32LE(32, 0);
request.writeUInt16LE(18, 4);
request.writeUInt16LE(1, 6);
request.writeInt32LE(1, 20);
native().netlinkSend(handle, request);
