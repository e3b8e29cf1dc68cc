/**
 * What a program sees of its own sockets. `names FRONTEND TCP-PORT UDP-PORT` prints the peers that it is told; `stay FRONTEND
 * PORT` has a connected datagram socket, makes another when that fails, and prints a line for each answer and each failure.
 */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { connect, isIPv6 } from 'node:net';

const [role, host = '', ...ports] = process.argv.slice(2);
const [first = 0, second = 0] = ports.map(Number);
const say = (record: object): void => void process.stdout.write(`${JSON.stringify(record)}\n`);
const kind = isIPv6(host) ? 'udp6' : 'udp4';

async function names(): Promise<void> {
  const stream = connect(first, host);
  await once(stream, 'connect');
  const tcp = [stream.remoteAddress, stream.remotePort].join(' ');
  stream.destroy();
  const connected = createSocket(kind);
  connected.connect(second, host);
  await once(connected, 'connect');
  const { address, port } = connected.remoteAddress();
  connected.send('word');
  const [, told] = await once(connected, 'message');
  connected.close();
  const free = createSocket(kind);
  free.send('word', second, host);
  const [, from] = await once(free, 'message');
  free.close();
  const end = (each: { address: string; port: number }): string => `${each.address} ${each.port}`;
  say({ tcp, udpPeer: `${address} ${port}`, udpConnected: end(told), udpFree: end(from) });
}

function stay(): void {
  const socket: Socket = createSocket(kind);
  socket.connect(first, host);
  socket.on('message', () => say({ answer: true }));
  const again = (error: Error & { code?: string }): void => {
    clearInterval(beat);
    say({ failed: error.code });
    socket.close();
    setTimeout(stay, 50);
  };
  socket.on('error', again);
  const beat = setInterval(() => socket.send('word', (error) => error && again(error)), 30);
}

if (role === 'names') await names();
else stay();
