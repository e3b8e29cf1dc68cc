import { readPacket } from '../../src/core/packet.ts';
import { PacketLog } from '../../src/host/packet-log.ts';

// Started by packet-log.test.ts in a network namespace of its own: counts what it is told of and what it missed. A packet
// `sleep` keeps the process busy, so that the kernel's buffer runs over; at `end` it tells its counts.
const counts = { told: 0, missed: 0, hooks: new Set<number>() };
const log = new PacketLog({
  group: 78,
  copyBytes: 64,
  receiveBuffer: 32 << 10,
  gather: { packets: 8, hundredths: 2 },
  onMissed: (packets) => {
    counts.missed += packets;
  },
  onPacket: ({ payload, hook }) => {
    counts.told++;
    counts.hooks.add(hook);
    const text = payload.toString('latin1', readPacket(payload)?.payloadAt);
    if (text === 'sleep') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1500);
    if (text === 'end') process.stdout.write(`${JSON.stringify({ ...counts, hooks: [...counts.hooks] })}\n`);
  },
});
await log.open();
process.stdout.write('listening\n');
setInterval(() => undefined, 1000);
