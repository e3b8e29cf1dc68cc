import { formatAddress } from '../../src/core/ip.ts';
import { readPacket } from '../../src/core/packet.ts';
import { PacketLog } from '../../src/host/packet-log.ts';

// Started by packet-log.test.ts in a network namespace of its own: tells each logged packet as a line.
const log = new PacketLog({
  group: Number(process.argv[2] ?? 77),
  copyBytes: 256,
  onPacket: (packet) => {
    const headers = readPacket(packet.payload);
    const ends =
      headers === undefined
        ? '?'
        : `${formatAddress(headers.source)}:${headers.sourcePort} ${formatAddress(headers.destination)}:${headers.destinationPort}`;
    const payload = headers === undefined ? '' : packet.payload.toString('latin1', headers.payloadAt);
    process.stdout.write(`${packet.family} ${packet.prefix} ${ends} ${headers?.protocol} ${payload}\n`);
  },
});
await log.open();
process.stdout.write('listening\n');
// The socket alone does not keep the process alive.
setInterval(() => undefined, 1000);
