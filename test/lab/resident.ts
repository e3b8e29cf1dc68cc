/**
 * The process that lives in a place of the lab: serves echo on ports, and tries to reach others, by order of its parent
 * over the channel that Node gives a child. One process a namespace; a probe then costs a socket, not a program.
 */
import { spawn } from 'node:child_process';
import { createSocket, type Socket as DatagramSocket } from 'node:dgram';
import { createServer, connect as netConnect, type Server, type Socket } from 'node:net';
import type { FlowReport, Order, Orders, Outcome, ProbeRequest } from './place.ts';

const connections = new Map<number, Socket>();
const flows = new Map<number, { stop(): Promise<FlowReport> }>();
let lastHandle = 0;

const orders: { [Name in Order]: (request: Orders[Name]['request']) => Promise<Orders[Name]['answer']> } = {
  listen: async ({ tcp, udp }) => {
    await Promise.all([...tcp.map(listenTcp), ...udp.map(listenUdp)]);
    return undefined;
  },
  probe: (request) => {
    if (request.protocol === 'icmp') return probeIcmp(request);
    return request.protocol === 'tcp' ? probeTcp(request) : probeUdp(request);
  },
  open: async (request) => {
    const socket = netConnect({ host: request.to, port: request.port });
    socket.on('error', () => {});
    connections.set(++lastHandle, socket);
    return { handle: lastHandle, outcome: await exchange(socket, request.timeoutMs) };
  },
  check: ({ handle, timeoutMs }) => exchange(connections.get(handle), timeoutMs),
  shut: async ({ handle }) => {
    connections.get(handle)?.destroy();
    connections.delete(handle);
    return undefined;
  },
  flow: async (request) => {
    flows.set(++lastHandle, startFlow(request));
    return { handle: lastHandle };
  },
  stop: async ({ handle }) => {
    const flow = flows.get(handle);
    flows.delete(handle);
    return (await flow?.stop()) ?? { sent: 0, received: 0 };
  },
};

process.on('message', (message: { id: number; order: Order | 'door'; request: never }) => {
  const { id, order, request } = message;
  if (order === 'door') return openDoor(id, request);
  (orders[order] as (request: never) => Promise<unknown>)(request).then(
    (answer) => tell({ id, answer }),
    (error: unknown) => tell({ id, error: String(error) }),
  );
});
process.on('disconnect', () => process.exit(0));
tell({ id: 0 });

/** A parent that is gone gets no answer; `disconnect` ends us. */
function tell(message: object): void {
  process.send?.(message, undefined, {}, () => {});
}

/** A listening socket of this namespace for the parent, who serves it from its own. */
function openDoor(id: number, { host, port }: { host: string; port: number }): void {
  const server = createServer();
  server.on('error', (error) => tell({ id, error: String(error) }));
  server.listen({ host, port }, () => process.send?.({ id }, server, {}, () => server.close()));
}

function listenTcp(port: number): Promise<Server> {
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.pipe(socket);
  });
  return new Promise((resolve, reject) => {
    server.on('error', reject);
    server.listen({ host: '::', port, backlog: 1024 }, () => resolve(server));
  });
}

function listenUdp(port: number): Promise<DatagramSocket> {
  const socket = createSocket({ type: 'udp6', recvBufferSize: 1 << 20 });
  socket.on('message', (message, from) => socket.send(message, from.port, from.address));
  return new Promise((resolve, reject) => {
    socket.on('error', reject);
    socket.bind(port, '::', () => resolve(socket));
  });
}

async function probeTcp({ to, port, timeoutMs }: ProbeRequest): Promise<Outcome> {
  const socket = netConnect({ host: to, port });
  socket.on('error', () => {});
  const outcome = await exchange(socket, timeoutMs);
  socket.resetAndDestroy();
  return outcome;
}

/** Sends a word over a connection, which may still be in the making, and waits for its echo. */
function exchange(socket: Socket | undefined, timeoutMs: number): Promise<Outcome> {
  if (socket === undefined || socket.destroyed) return Promise.resolve('refused');
  return new Promise((resolve) => {
    const end = (outcome: Outcome): void => {
      clearTimeout(timer);
      socket.off('data', onData).off('error', onError).off('close', onClose);
      resolve(outcome);
    };
    const onData = (): void => end('pass');
    const onError = (error: NodeJS.ErrnoException): void => end(outcomeOf(error));
    const onClose = (): void => end('refused');
    const timer = setTimeout(() => end('blocked'), timeoutMs);
    socket.on('data', onData).on('error', onError).on('close', onClose);
    socket.write('?');
  });
}

function probeUdp({ to, port, timeoutMs }: ProbeRequest): Promise<Outcome> {
  const socket = createSocket(to.includes(':') ? 'udp6' : 'udp4');
  return new Promise((resolve) => {
    const end = (outcome: Outcome): void => {
      clearTimeout(timer);
      clearInterval(again);
      socket.close();
      resolve(outcome);
    };
    const timer = setTimeout(() => end('blocked'), timeoutMs);
    // A datagram may be lost for reasons of its own; one connection, three tries.
    const send = (): void => socket.send('?', () => {});
    const again = setInterval(send, timeoutMs / 3);
    socket.on('error', (error: NodeJS.ErrnoException) => end(outcomeOf(error)));
    socket.on('message', () => end('pass'));
    socket.connect(port, to, send);
  });
}

function probeIcmp({ to, timeoutMs }: ProbeRequest): Promise<Outcome> {
  const wait = String(Math.max(0.2, timeoutMs / 1000));
  const child = spawn('ping', ['-n', '-q', '-c', '1', '-W', wait, to], { stdio: ['ignore', 'pipe', 'ignore'] });
  let text = '';
  child.stdout.on('data', (data: Buffer) => {
    text += data.toString();
  });
  return new Promise((resolve) => {
    child.on('close', (code) => resolve(code === 0 ? 'pass' : /errors/.test(text) ? 'refused' : 'blocked'));
    child.on('error', () => resolve('blocked'));
  });
}

function outcomeOf(error: NodeJS.ErrnoException): Outcome {
  return error.code === 'EHOSTUNREACH' || error.code === 'ENETUNREACH' ? 'unreachable' : 'refused';
}

/** Datagrams in a steady beat: on one connection, or each from a port of its own, so that each is judged as new. */
function startFlow({ to, port, everyMs, fresh, bytes }: Orders['flow']['request']): { stop(): Promise<FlowReport> } {
  const answered = new Set<number>();
  const open = new Set<DatagramSocket>();
  let sent = 0;
  const make = (): DatagramSocket => {
    const socket = createSocket(to.includes(':') ? 'udp6' : 'udp4');
    open.add(socket);
    // A refusal (port unreachable) is an answer that did not come.
    socket.on('error', () => {});
    socket.on('message', (message) => {
      answered.add(message.readUInt32BE(0));
      if (fresh) close(socket);
    });
    return socket;
  };
  const close = (socket: DatagramSocket): void => {
    if (open.delete(socket)) socket.close();
  };
  const lasting = fresh ? undefined : make();
  const timer = setInterval(() => {
    const word = Buffer.alloc(Math.max(4, bytes));
    word.writeUInt32BE(sent++);
    const socket = lasting ?? make();
    socket.send(word, port, to, () => {});
    if (fresh) setTimeout(() => close(socket), 2000);
  }, everyMs);
  return {
    stop: async () => {
      clearInterval(timer);
      // The last answers are still on their way.
      for (let waited = 0; answered.size < sent && waited < 1000; waited += 50)
        await new Promise((resolve) => setTimeout(resolve, 50));
      for (const socket of open) close(socket);
      return { sent, received: answered.size };
    },
  };
}
