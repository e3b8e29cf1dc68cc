import { createSocket } from 'node:dgram';
import { formatIpv4, formatIpv6 } from '../../src/core/ip.ts';

// Started in a namespace: tells each VXLAN packet that arrives on UDP 8472 as one line of JSON.
export interface HeardPacket {
  /** Source of the outer packet. */
  readonly outer: string;
  /** Network number of the VXLAN header; -1 when its valid bit is not set. */
  readonly vni: number;
  readonly source: string;
  readonly destination: string;
  /** Sequence number of an ICMP or ICMPv6 echo request. */
  readonly sequence: number;
}

const VXLAN_HEADER = 8;
const ETHERNET_HEADER = 14;

function read(data: Buffer, outer: string): HeardPacket | undefined {
  const frame = data.subarray(VXLAN_HEADER);
  const packet = frame.subarray(ETHERNET_HEADER);
  const vni = (data[0] as number) === 0x08 ? data.readUIntBE(4, 3) : -1;
  const type = frame.readUInt16BE(12);
  const words = (at: number): number[] => [0, 4, 8, 12].map((offset) => packet.readUInt32BE(at + offset));
  if (type === 0x0800 && packet[9] === 1 && packet[20] === 8) {
    return {
      outer,
      vni,
      source: formatIpv4(packet.readUInt32BE(12)),
      destination: formatIpv4(packet.readUInt32BE(16)),
      sequence: packet.readUInt16BE(26),
    };
  }
  if (type === 0x86dd && packet[6] === 58 && packet[40] === 128) {
    const [source, destination] = [formatIpv6(words(8)), formatIpv6(words(24))];
    return { outer, vni, source, destination, sequence: packet.readUInt16BE(46) };
  }
  return undefined;
}

let listening = 0;
for (const type of ['udp4', 'udp6'] as const) {
  const socket = createSocket({ type, ipv6Only: type === 'udp6', recvBufferSize: 4 << 20 });
  socket.on('message', (data, { address }) => {
    const packet = read(data, address);
    if (packet !== undefined) process.stdout.write(`${JSON.stringify(packet)}\n`);
  });
  socket.bind(8472, () => {
    if (++listening === 2) process.stdout.write('"ready"\n');
  });
}
