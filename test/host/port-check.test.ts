import assert from 'node:assert/strict';
import { createServer as createHttp, type Server as HttpServer } from 'node:http';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { after, test } from 'node:test';
import { checkPort, tryPort } from '../../src/host/port-check.ts';

const servers: (Server | HttpServer)[] = [];
after(() => {
  for (const server of servers) server.close();
});

async function listening(server: Server | HttpServer): Promise<number> {
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return (server.address() as AddressInfo).port;
}

const look = (port: number, path?: string): Promise<string | undefined> =>
  checkPort({ address: '127.0.0.1', port, timeoutMs: 500, ...(path !== undefined && { path }) });

test('a port that takes a connection is fine, one that refuses is not', async () => {
  const server = createServer((socket) => socket.on('error', () => undefined));
  const port = await listening(server);
  assert.equal(await look(port), undefined);
  await new Promise((resolve) => server.close(resolve));
  assert.equal(await look(port), 'connection refused');
});

test('of a request the status counts, and redirections are not followed', async () => {
  const port = await listening(
    createHttp((request, response) => {
      const status = Number(request.url?.slice(1));
      response.writeHead(status, status === 302 ? { location: '/500' } : {}).end('x'.repeat(1 << 20));
    }),
  );
  assert.deepEqual(await Promise.all(['/200', '/204', '/302'].map((path) => look(port, path))), [
    undefined,
    undefined,
    undefined,
  ]);
  assert.equal(await look(port, '/404'), 'status 404');
  assert.equal(await look(port, '/503'), 'status 503');
});

test('whoever takes the connection and stays silent, or speaks no HTTP, is not fine', async () => {
  const silent = await listening(createServer((socket) => socket.on('error', () => undefined)));
  assert.equal(await look(silent, '/'), 'no answer within 500 ms');
  const other = await listening(createServer((socket) => socket.end('SSH-2.0\r\n\r\n')));
  assert.match((await look(other, '/')) ?? '', /Parse Error/);
});

test('an answer without an end is cut off, and a look that nobody wants any more ends at once', async () => {
  const endless = createServer((socket) => {
    const timer = setInterval(() => socket.write(`x: ${'y'.repeat(4096)}\r\n`), 5);
    socket.on('error', () => undefined).on('close', () => clearInterval(timer));
    socket.write('HTTP/1.1 200 OK\r\n');
  });
  assert.match((await look(await listening(endless), '/')) ?? '', /overflow/);
  const silent = await listening(createServer((socket) => socket.on('error', () => undefined)));
  const end = new AbortController();
  const waiting = tryPort({ address: '127.0.0.1', port: silent, path: '/', timeoutMs: 60_000, signal: end.signal });
  end.abort();
  assert.deepEqual(await waiting, { untried: 'ended' });
});
