import { spawnSync } from 'node:child_process';
import { Attributes } from '../../src/host/attributes.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../../src/host/netlink.ts';

// Started by netlink.test.ts in a network namespace of its own. A small receive buffer is flooded with events; the socket
// must tell the loss and deliver what comes afterwards.
const RTM_NEWLINK = 16;
const RTNLGRP_LINK = 1;
const IFLA_IFNAME = 3;
const IFINFO_LENGTH = 16;

let lost = 0;
const ip = (...args: string[]): void => {
  const result = spawnSync('ip', args, { encoding: 'utf8' });
  if (result.status !== 0) throw new Error(`ip ${args.join(' ')}: ${result.stderr}`);
};
const socket = new NetlinkSocket({
  family: NETLINK_ROUTE,
  receiveBuffer: 4096,
  onLost: () => {
    lost++;
    // From within a callback, and once the flood is over.
    if (lost === 1) setImmediate(() => ip('link', 'add', 'after', 'type', 'bridge'));
  },
  onEvent: (message) => {
    const name = new Attributes(message.body, IFINFO_LENGTH).string(IFLA_IFNAME);
    if (message.type !== RTM_NEWLINK || name !== 'after') return;
    process.stdout.write(`lost ${lost > 0}, then ${name}\n`);
    socket.close();
  },
});
socket.join(RTNLGRP_LINK);
socket.keepAlive(true);
for (let i = 0; i < 20; i++) ip('link', 'add', `before${i}`, 'type', 'bridge');
