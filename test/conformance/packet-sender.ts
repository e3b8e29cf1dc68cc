/**
 * A process in a network namespace that opens connections by order of its parent and tells what became of them. Nobody
 * listens at the other end: an answer of the other host that the port is closed proves that the packet arrived.
 */
import { spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';

export interface Sending {
  readonly protocol: number;
  readonly from?: string;
  readonly fromPort: number;
  readonly to: string;
  readonly port: number;
  /** How long silence is waited for. */
  readonly timeoutMs: number;
}

createInterface({ input: process.stdin }).on('line', (line) => {
  const { id, sendings } = JSON.parse(line) as { id: number; sendings: readonly Sending[] };
  Promise.all(sendings.map(send)).then(
    (result) => say({ id, result }),
    (error: unknown) => say({ id, error: String(error) }),
  );
});
process.stdin.on('end', () => process.exit(0));
say({ ready: true });

function say(message: object): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

function send(sending: Sending): Promise<boolean> {
  if (sending.protocol === 6) return sendTcp(sending);
  return sending.protocol === 17 ? sendUdp(sending) : ping(sending);
}

function sendTcp({ from, fromPort, to, port, timeoutMs }: Sending): Promise<boolean> {
  const source = from === undefined ? {} : { localAddress: from };
  const socket = connect({ host: to, port, localPort: fromPort, ...source });
  return new Promise((resolve, reject) => {
    const end = (arrived: boolean): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(arrived);
    };
    const timer = setTimeout(() => end(false), timeoutMs);
    socket.on('connect', () => end(true));
    socket.on('error', (error: NodeJS.ErrnoException) => (error.code === 'ECONNREFUSED' ? end(true) : reject(error)));
  });
}

function sendUdp({ from, fromPort, to, port, timeoutMs }: Sending): Promise<boolean> {
  const socket = createSocket(to.includes(':') ? 'udp6' : 'udp4');
  return new Promise((resolve, reject) => {
    const end = (arrived: boolean): void => {
      clearTimeout(timer);
      socket.close();
      resolve(arrived);
    };
    const timer = setTimeout(() => end(false), timeoutMs);
    socket.on('error', (error: NodeJS.ErrnoException) => (error.code === 'ECONNREFUSED' ? end(true) : reject(error)));
    const bound = { port: fromPort, ...(from === undefined ? {} : { address: from }) };
    socket.bind(bound, () => socket.connect(port, to, () => socket.send('?')));
  });
}

function ping({ from, to, timeoutMs }: Sending): Promise<boolean> {
  const source = from === undefined ? [] : ['-I', from];
  const wait = String(timeoutMs / 1000);
  const child = spawn('ping', ['-n', '-q', '-c', '1', '-W', wait, ...source, to], { stdio: 'ignore' });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => (code === 0 || code === 1 ? resolve(code === 0) : reject(new Error(`ping: ${code}`))));
  });
}
