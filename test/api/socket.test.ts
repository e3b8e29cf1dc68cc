import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, test } from 'node:test';
import { openClient } from '../../src/api/client.ts';
import { type ApiServer, type ApiServerOptions, serveApi } from '../../src/api/server.ts';
import type { AgentApi } from '../../src/api/types.ts';
import { MeshError } from '../../src/core/errors.ts';
import { flow } from '../agent/flows.ts';
import { until } from '../lab/namespace.ts';
import { manyAddresses, memoryAgent, status } from './memory-agent.ts';

const folder = mkdtempSync(join(tmpdir(), 'mesh-api-'));
const opened: ApiServer[] = [];
const sockets: Socket[] = [];
let count = 0;

async function serve(api: Partial<AgentApi> = {}, options: Partial<ApiServerOptions> = {}): Promise<string> {
  const socket = options.socket ?? join(folder, `${count++}.sock`);
  opened.push(await serveApi({ api: memoryAgent(api), ...options, socket }));
  return socket;
}

function dial(path: string): Socket {
  const socket = connect(path);
  socket.on('error', () => undefined);
  sockets.push(socket);
  return socket;
}

/** Everything that the server says until it closes the connection. */
async function exchange(path: string, request: string): Promise<string> {
  const socket = dial(path);
  let text = '';
  socket.on('data', (chunk) => {
    text += chunk.toString();
  });
  socket.write(request);
  await new Promise((resolve) => socket.once('close', resolve));
  return text;
}

async function collect<T>(list: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const each of list) all.push(each);
  return all;
}

const coded = (code: string) => (error: unknown) => error instanceof MeshError && error.code === code;

afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await Promise.all(opened.splice(0).map((each) => each.close()));
});
after(() => rmSync(folder, { recursive: true, force: true }));

test('records arrive as the agent holds them', async () => {
  const client = openClient({ socket: await serve() });
  const seen = await client.status();
  assert.deepEqual(seen, JSON.parse(JSON.stringify(status({ ...seen }))));
  assert.equal((await client.identity('131500')).cluster, 'cluster-b');
  assert.equal((await client.ipcacheGet('10.245.1.5')).identity, 131_500);
  const detail = await client.policy('CiliumNetworkPolicy/production/web');
  assert.deepEqual(detail.rulesJson, [{ endpointSelector: { matchLabels: { 'any:app': 'web' } } }]);
});

test('lists arrive whole, and filtered where the question says so', async () => {
  const client = openClient({ socket: await serve() });
  const prefixes = async (filter: object): Promise<string[]> =>
    (await collect(client.ipcache(filter))).map((each) => each.prefix);
  assert.deepEqual(await prefixes({}), ['192.168.1.100/32', '10.245.1.5/32']);
  assert.deepEqual(await prefixes({ cluster: 'cluster-b' }), ['10.245.1.5/32']);
  assert.deepEqual(await prefixes({ source: 'local' }), ['192.168.1.100/32']);
  assert.deepEqual(await prefixes({ selector: 'app=frontend' }), ['10.245.1.5/32']);
  assert.deepEqual(await prefixes({ selector: 'k8s:app!=frontend' }), ['192.168.1.100/32']);
  assert.deepEqual(await prefixes({ selector: 'reserved:host' }), []);
  assert.equal((await collect(client.endpoints({ all: false }))).length, 1);
  assert.equal((await collect(client.endpoints({ all: true }))).length, 2);
  assert.equal((await collect(client.kernelPolicy())).length, 2);
});

test('an error keeps its code, its place and its reason', async () => {
  const socket = await serve({
    status: () => {
      throw new MeshError('KVS-AUTH', 'no role', { place: 'cilium/state' });
    },
    services: () => {
      throw new TypeError('a fault');
    },
  });
  const client = openClient({ socket });
  await assert.rejects(client.status(), (error) => {
    assert(error instanceof MeshError);
    assert.deepEqual(
      [error.code, error.place, error.message],
      ['KVS-AUTH', 'cilium/state', 'the store refuses access: no role'],
    );
    return true;
  });
  await assert.rejects(client.identity('777'), coded('API-NOT-FOUND'));
  await assert.rejects(client.identity('abc'), coded('API-REQUEST'));
  await assert.rejects(client.ipcacheGet('10.0.0.0/8'), coded('API-REQUEST'));
  await assert.rejects(client.policy('../../etc/passwd'), coded('API-NOT-FOUND'));
  await assert.rejects(collect(client.identities({ selector: ',,' })), coded('API-REQUEST'));
  await assert.rejects(collect(client.services()), coded('API-FAILED'));
});

test('a list that breaks in the middle is never taken for a whole one', async () => {
  const socket = await serve({
    *ipcache() {
      yield* manyAddresses(5000);
      throw new Error('the table is gone');
    },
  });
  await assert.rejects(collect(openClient({ socket }).ipcache()), coded('API-FAILED'));
});

test('a million records pass without being held in memory, while others are answered', async () => {
  const socket = await serve({ ipcache: () => manyAddresses(1_000_000) });
  // A process of its own reads, so that only the server's memory is measured here.
  const program = join(import.meta.dirname, 'count-records.ts');
  const reader = spawn(process.execPath, [program, socket], { stdio: ['ignore', 'pipe', 'inherit'] });
  let said = '';
  reader.stdout.on('data', (chunk: Buffer) => {
    said += chunk.toString();
  });
  const ended = once(reader, 'close');
  const before = process.memoryUsage().rss;
  const client = openClient({ socket });
  let most = before;
  let answered = 0;
  while (reader.exitCode === null) {
    await client.status();
    answered++;
    most = Math.max(most, process.memoryUsage().rss);
  }
  await ended;
  assert.equal(said.trim(), '1000000');
  assert(answered > 10, `${answered} other questions were answered`);
  // The records together have 200 MB.
  assert(most - before < 120 << 20, `memory rose by ${Math.round((most - before) / (1 << 20))} MB`);
});

test('a reader that takes nothing costs one chunk, and is put out in the end', async () => {
  let made = 0;
  let ended = false;
  function* watched() {
    try {
      for (const record of manyAddresses(1_000_000)) {
        made++;
        yield record;
      }
    } finally {
      ended = true;
    }
  }
  const socket = await serve({ ipcache: watched }, { limits: { stallMs: 500 } });
  const lazy = dial(socket);
  lazy.pause();
  lazy.write('GET /v1/ipcache HTTP/1.1\r\nhost: agent\r\n\r\n');
  await until('the server gives the reader up', () => ended);
  assert(made > 0);
  assert(made < 20_000, `${made} records were made for a reader that took none`);
});

test('garbage, half requests and forbidden requests harm nobody', async () => {
  const socket = await serve({}, { limits: { requestMs: 300 } });
  assert.doesNotMatch(await exchange(socket, '\0\xff\x16\x03\x01 garbage\r\n\r\n'), /200/);
  assert.doesNotMatch(await exchange(socket, `GET /${'a'.repeat(100_000)} HTTP/1.1\r\n\r\n`), /200/);
  assert.doesNotMatch(await exchange(socket, 'GET /v1/status HTTP/1.1\r\nhost:'), /"Status"/);
  assert.match(await exchange(socket, 'DELETE /v1/status HTTP/1.1\r\nhost: a\r\n\r\n'), /400[\s\S]*API-REQUEST/);
  assert.match(await exchange(socket, 'GET /v2/status HTTP/1.1\r\nhost: a\r\n\r\n'), /400[\s\S]*API-REQUEST/);
  assert.match(await exchange(socket, 'GET /v1/identities/%zz HTTP/1.1\r\nhost: a\r\n\r\n'), /400[\s\S]*API-REQUEST/);
  assert.match(await exchange(socket, 'GET /v1/__proto__/x HTTP/1.1\r\nhost: a\r\n\r\n'), /400[\s\S]*API-REQUEST/);
  assert.match(await exchange(socket, 'GET /v1/constructor HTTP/1.1\r\nhost: a\r\n\r\n'), /400[\s\S]*API-REQUEST/);
  assert.equal((await openClient({ socket }).status()).kind, 'Status');
});

test('what is sent to change something is read with care, and refused with a reason', async () => {
  const asked: unknown[] = [];
  const socket = await serve({
    explain: (request) => {
      asked.push(request);
      return Promise.reject(new MeshError('API-QUESTION', 'who?'));
    },
    applyPolicies: (request) => {
      asked.push(request);
      return Promise.resolve({ apiVersion: 'mesh-agent/v1', kind: 'PolicyApplied', items: [] });
    },
  });
  const post = (path: string, body: string): Promise<string> =>
    exchange(socket, `POST ${path} HTTP/1.1\r\nhost: a\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
  for (const [path, body] of [
    ['/v1/explain', ''],
    ['/v1/explain', '[]'],
    ['/v1/explain', '{"source": "a"}'],
    ['/v1/explain', '{"source": "a", "destination": 7}'],
    ['/v1/explain', '{"source": "a", "destination": "b", "with": []}'],
    ['/v1/explain', '{"source": "a", "destination": "b", "more": 1}'],
    ['/v1/explain', `{"source": "${'x'.repeat(5000)}", "destination": "b"}`],
    ['/v1/policies', '{}'],
    ['/v1/policies', '{"texts": [{"name": "x"}]}'],
    ['/v1/policies', '{"texts": [{"name": "x", "text": "y", "source": "kvstore"}]}'],
    ['/v1/policies/x', '{"texts": [{"name": "x", "text": "y"}]}'],
    ['/v1/status', '{}'],
    ['/v1/policies', `{"texts": [{"name": "x", "text": "${'y'.repeat(1 << 20)}"}]}`],
  ] as const) {
    assert.match(await post(path, body), /400[\s\S]*API-REQUEST/, `${path} ${body.slice(0, 80)}`);
  }
  assert.deepEqual(asked, []);
  const client = openClient({ socket });
  await assert.rejects(client.explain({ source: 'a', destination: 'b' }), coded('API-QUESTION'));
  assert.equal((await client.applyPolicies({ texts: [{ name: 'x', text: 'y' }] })).kind, 'PolicyApplied');
  await assert.rejects(client.deletePolicy('x'), coded('API-NOT-FOUND'));
  assert.deepEqual(asked, [{ source: 'a', destination: 'b' }, { texts: [{ name: 'x', text: 'y' }] }]);
});

test('a socket that a group may use answers questions and changes nothing', async () => {
  const socket = await serve({}, { group: 'daemon' });
  const client = openClient({ socket });
  await assert.rejects(client.explain({ source: 'a', destination: 'b' }), coded('API-QUESTION'));
  await assert.rejects(client.applyPolicies({ texts: [{ name: 'x', text: 'y' }] }), coded('API-READ-ONLY'));
  await assert.rejects(client.deletePolicy('x'), coded('API-READ-ONLY'));
});

test('a thousand silent connections do not shut an operator out', async () => {
  const socket = await serve();
  const silent = Array.from({ length: 1000 }, () => dial(socket));
  await until('most were put out', () => silent.filter((each) => each.closed).length > 900);
  assert.equal((await openClient({ socket }).status()).kind, 'Status');
});

test('readers that hang do not shut an operator out', async () => {
  let reading = 0;
  const ipcache = () => {
    reading++;
    return manyAddresses(1_000_000);
  };
  const socket = await serve({ ipcache }, { limits: { clients: 4 } });
  for (let i = 1; i <= 4; i++) {
    const lazy = dial(socket);
    lazy.pause();
    lazy.write('GET /v1/ipcache HTTP/1.1\r\nhost: agent\r\n\r\n');
    await until(`reader ${i} is served`, () => reading === i);
  }
  const client = openClient({ socket });
  await until('the status is answered', () =>
    client.status().then(
      (seen) => seen.kind === 'Status',
      () => false,
    ),
  );
});

test('only the owner may use the socket, unless a group is named', async () => {
  const nested = join(folder, 'run', 'mesh-agent');
  const socket = await serve({}, { socket: join(nested, 'agent.sock') });
  assert.equal(statSync(socket).mode & 0o777, 0o600);
  assert.equal(statSync(nested).mode & 0o777, 0o700);
  chmodSync(folder, 0o755);
  const own = await serve();
  process.seteuid?.(65_534);
  try {
    await assert.rejects(openClient({ socket: own }).status(), coded('API-DENIED'));
  } finally {
    process.seteuid?.(0);
  }
  const shared = await serve({}, { group: 'daemon' });
  assert.equal(statSync(shared).mode & 0o777, 0o660);
  assert.notEqual(statSync(shared).gid, 0);
  await assert.rejects(serve({}, { group: 'no-such-group' }), coded('API-SOCKET'));
});

test('a second agent is refused while the first answers, and takes over what a dead one left', async () => {
  const socket = await serve();
  await assert.rejects(serve({}, { socket }), coded('API-BUSY'));
  assert.equal((await openClient({ socket }).status()).kind, 'Status');
  await opened.pop()?.close();
  assert(!existsSync(socket), 'the socket goes with its agent');

  const left = join(folder, 'left.sock');
  const script = `require('node:net').createServer().listen(${JSON.stringify(left)}, () => process.kill(process.pid, 'SIGKILL'))`;
  spawnSync(process.execPath, ['-e', script]);
  assert(existsSync(left));
  await assert.rejects(openClient({ socket: left }).status(), coded('API-UNREACHABLE'));
  await serve({}, { socket: left });
  assert.equal((await openClient({ socket: left }).status()).kind, 'Status');
});

test('what is no socket is never removed', async () => {
  const file = join(folder, 'precious');
  writeFileSync(file, 'x');
  await assert.rejects(serve({}, { socket: file }), coded('API-SOCKET'));
  const directory = join(folder, 'directory');
  mkdirSync(directory);
  await assert.rejects(serve({}, { socket: directory }), coded('API-SOCKET'));
  await assert.rejects(serve({}, { socket: join(folder, 'x'.repeat(120)) }), coded('API-SOCKET'));
  assert.equal(statSync(file).size, 1);
});

test('an agent that is away, silent or no agent is told apart from one that answers', async () => {
  await assert.rejects(openClient({ socket: join(folder, 'nowhere.sock') }).status(), coded('API-UNREACHABLE'));
  const mute = createServer((each) => sockets.push(each));
  const path = join(folder, 'mute.sock');
  mute.listen(path);
  await once(mute, 'listening');
  try {
    await assert.rejects(openClient({ socket: path, silenceMs: 100 }).status(), coded('API-UNREACHABLE'));
  } finally {
    mute.close();
  }
});

test('who follows and never reads is put out, and what was made for him ends', async () => {
  let ended = false;
  async function* flood(_query: unknown, signal: AbortSignal) {
    try {
      for (let number = 0; !signal.aborted; number++) yield { flow: flow({ number }) };
    } finally {
      ended = true;
    }
  }
  const path = await serve({ flows: flood }, { limits: { streamStallMs: 200 } });
  const socket = dial(path);
  socket.pause();
  socket.write('GET /v1/flows?follow=1 HTTP/1.1\r\nhost: x\r\n\r\n');
  await until('the flood ends', () => ended);
  socket.resume();
  await until('the connection is cut', () => socket.destroyed || socket.closed);
  const { state } = await openClient({ socket: path }).status();
  assert.equal(state, 'ok', 'others are served');
});

test('who follows ends by his own signal, and a filter that makes no sense is refused', async () => {
  let watching = 0;
  async function* alive(_query: unknown, signal: AbortSignal) {
    watching++;
    yield { alive: 1 };
    await new Promise((resolve) => signal.addEventListener('abort', resolve));
    watching--;
  }
  const client = openClient({ socket: await serve({ flows: alive }) });
  const leave = new AbortController();
  for await (const event of client.flows({ follow: '1' }, leave.signal)) {
    assert.deepEqual(event, { alive: 1 });
    setImmediate(() => leave.abort());
  }
  await until('the server knows', () => watching === 0);
  await assert.rejects(collect(client.flows({ port: 'x' })), coded('API-REQUEST'));
});
