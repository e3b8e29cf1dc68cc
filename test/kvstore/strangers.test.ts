import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer as createHttp } from 'node:http';
import { createServer as createHttp2, type ServerHttp2Stream } from 'node:http2';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { test } from 'node:test';
import { prefixEnd } from '../../src/kvstore/messages.ts';
import { openStore } from '../../src/kvstore/session.ts';
import type { Store } from '../../src/kvstore/store.ts';
import { WireReader, WireWriter } from '../../src/kvstore/wire.ts';
import { until } from '../lab/namespace.ts';
import { Mirror, QUICK, recorder, trouble } from './mirror.ts';

async function listen(server: Server): Promise<string> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** Opens a store at a stranger, expects one of the codes, and that it closes in time. */
async function meets(server: Server, ...codes: string[]): Promise<void> {
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => sockets.add(socket));
  const endpoint = await listen(server);
  const store = openStore({ etcd: async () => ({ endpoints: [endpoint] }), timing: QUICK });
  const mirror = new Mirror();
  store.watchPrefix('a/', mirror);
  store.own('b', 'c');
  try {
    const found = (): boolean => store.status.troubles.some(({ code }) => codes.includes(code));
    await until(`a trouble ${codes} at ${endpoint}`, found, 15_000).catch((error: Error) => {
      throw new Error(`${error.message}: ${JSON.stringify(store.status)}`);
    });
    assert.notEqual(store.status.state, 'connected');
    assert.equal(mirror.puts, 0);
  } finally {
    await store.close();
    for (const socket of sockets) socket.destroy();
    server.close();
  }
}

test('a server that is no etcd is told, whatever it is', async () => {
  await meets(
    createHttp((_, response) => response.end('hello')),
    'KVS-NOT-ETCD',
  );
  await meets(
    createServer((socket) => socket.destroy()),
    'KVS-LOST',
  );
  await meets(
    createServer((socket) => socket.on('error', () => {}).resetAndDestroy()),
    'KVS-LOST',
  );
  await meets(talker(Buffer.from('SSH-2.0-OpenSSH_9.2p1\r\n')), 'KVS-NOT-ETCD');
  await meets(
    talker(Buffer.from(Array.from({ length: 5000 }, (_, i) => (i * 7919) & 255))),
    'KVS-NOT-ETCD',
    'KVS-LOST',
  );
  await meets(
    createServer(() => {}),
    'KVS-TIMEOUT',
  );
  await meets(
    createHttp2().on('stream', (stream) => stream.respond({ ':status': 404 }, { endStream: true })),
    'KVS-NOT-ETCD',
  );
});

function talker(data: Buffer): Server {
  return createServer((socket) => void socket.on('error', () => {}).write(data));
}

const header = (revision = 5, clusterId = 1): WireWriter => new WireWriter().uint(1, clusterId).uint(3, revision);
const keyValue = (key: string, revision: number): WireWriter =>
  new WireWriter().bytes(1, key).uint(2, revision).uint(3, revision).bytes(5, 'value');

type Answers = Readonly<Record<string, (request: Buffer, send: (answer: Buffer) => void) => void>>;

/** An etcd that answers as it is told: one function per method, which may answer any number of times. */
class FakeEtcd {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  endpoint = '';

  constructor(answers: Answers) {
    const server = createHttp2({ maxSessionMemory: 1000 });
    server.on('connection', (socket: Socket) => this.#sockets.add(socket));
    server.on('stream', (stream: ServerHttp2Stream, headers) => {
      stream.on('error', () => {});
      const method = String(headers[':path']).replace('/etcdserverpb.', '');
      const unary = !/Watch|KeepAlive/.test(method);
      stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
      stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
      const send = (answer: Buffer): void => {
        const frame = Buffer.alloc(5);
        frame.writeUInt32BE(answer.length, 1);
        stream.write(Buffer.concat([frame, answer]));
        if (unary) stream.end();
      };
      stream.on('data', (data: Buffer) => answers[method]?.(data.subarray(5), send));
    });
    this.#server = server;
  }

  static async start(answers: Answers): Promise<FakeEtcd> {
    const fake = new FakeEtcd(answers);
    fake.endpoint = await listen(fake.#server);
    return fake;
  }

  close(): void {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
  }
}

const emptyRange = (_: Buffer, send: (answer: Buffer) => void): void =>
  send(new WireWriter().message(1, header()).finish());

/** The heartbeat key, which the session itself reads, is always answered well. */
function range(answer: () => Buffer): Answers[string] {
  return (request, send) => {
    if (request.includes('.heartbeat')) emptyRange(request, send);
    else send(answer());
  };
}

function watchId(request: Buffer): number {
  const reader = new WireReader(request);
  while (reader.next()) {
    if (reader.field !== 1) return 0;
    reader.enter();
    for (let field = 0; reader.next(); ) {
      field = reader.field;
      if (field === 7) return reader.number();
      reader.skip();
    }
  }
  return 0;
}

async function against(answers: Answers, prove: (store: Store, mirror: Mirror) => Promise<void>): Promise<void> {
  const fake = await FakeEtcd.start(answers);
  const { events, onEvent } = recorder();
  const store = openStore({ etcd: async () => ({ endpoints: [fake.endpoint] }), timing: QUICK, onEvent });
  const mirror = new Mirror();
  store.watchPrefix('a/', mirror);
  try {
    await prove(store, mirror);
    assert.deepEqual(
      events.filter(({ message }) => / ended$/.test(message)),
      [],
      'no job of the session ended',
    );
  } finally {
    await store.close();
    fake.close();
  }
}

test('answers that are no etcd messages end in a trouble, never in an exception', async () => {
  const garbage = [
    Buffer.from([0xff, 0xff, 0xff, 0xff]),
    Buffer.from([0x0a, 0x7f, 0x01]),
    Buffer.from([0x0b]),
    Buffer.alloc(0),
    Buffer.from('{"error":"no"}'),
    new WireWriter().uint(1, 7).finish(),
    new WireWriter().message(1, header()).message(2, keyValue('b/other', 1)).finish(),
    new WireWriter().message(1, header()).message(2, new WireWriter()).finish(),
  ];
  for (const message of garbage) {
    await against({ 'KV/Range': range(() => message) }, async (store, mirror) => {
      await trouble(store, 'KVS-NOT-ETCD');
      assert.equal(mirror.puts, 0);
    });
  }
});

test('a watch stream of garbage ends in a trouble, and its keepalive stream, too', async () => {
  const noise = (_: Buffer, send: (answer: Buffer) => void): void => send(Buffer.from([0x0a, 0x7f, 0x01]));
  await against({ 'KV/Range': emptyRange, 'Watch/Watch': noise }, async (store) => {
    await until('it failed', () => store.status.lastFailure?.code === 'KVS-NOT-ETCD');
  });
  const granted = new WireWriter().message(1, header()).uint(2, 77).uint(3, 60).finish();
  const answers = {
    'KV/Range': emptyRange,
    'Lease/LeaseGrant': (_: Buffer, send: (answer: Buffer) => void) => send(granted),
    'Lease/LeaseKeepAlive': noise,
  };
  await against(answers, async (store) => {
    store.own('b', 'c');
    await until('it failed', () => store.status.lastFailure?.code === 'KVS-NOT-ETCD');
  });
});

test('a watch that the server cancels is made again, whether it names the watch or not', async () => {
  for (const id of [undefined, -1]) {
    let watches = 0;
    const answers: Answers = {
      'KV/Range': emptyRange,
      'Watch/Watch': (request, send) => {
        const own = watchId(request);
        if (own === 0) return;
        watches++;
        const answer = new WireWriter().message(1, header());
        if (watches > 2) {
          send(answer.uint(2, own).bool(3, true).finish());
          const event = new WireWriter().message(2, keyValue('a/1', 6));
          send(new WireWriter().message(1, header(6)).uint(2, own).message(11, event).finish());
          return;
        }
        const refused = answer
          .uint(2, id === undefined ? own : BigInt(id))
          .bool(3, true)
          .bool(4, true);
        send(refused.bytes(6, 'etcdserver: permission denied').finish());
      },
    };
    await against(answers, async (store, mirror) => {
      await trouble(store, 'KVS-AUTH');
      await until('the event is there', () => mirror.content.get('1') === 'value');
      assert.deepEqual(store.status.troubles, []);
      assert.equal(store.status.reconnections, 0);
    });
  }
});

test('a store that answers with more than an etcd may is asked for less, and not believed for ever', async () => {
  const huge = new WireWriter()
    .message(1, header())
    .bytes(9, Buffer.alloc(65 << 20))
    .finish();
  let asked = 0;
  const answer = (): Buffer => {
    asked++;
    return huge;
  };
  const answers = { 'KV/Range': range(answer) };
  await against(answers, async (store) => {
    await until('the trouble shows', () => store.status.troubles.length > 0, 60_000);
    assert.ok(asked > 1, JSON.stringify(store.status));
  });
});

test('an answer of another data set in the middle of a list is not mixed with the first', async () => {
  let pages = 0;
  const page = (): Buffer => {
    pages++;
    const first = new WireWriter().message(1, header(5, pages === 1 ? 1 : 2));
    if (pages === 1) first.message(2, keyValue('a/old', 3)).bool(3, true);
    else first.message(2, keyValue('a/new', 3));
    return first.finish();
  };
  const answers: Answers = {
    'KV/Range': (request, send) => {
      if (request.includes('.heartbeat')) send(new WireWriter().message(1, header(5, pages === 0 ? 1 : 2)).finish());
      else send(page());
    },
  };
  await against(answers, async (store, mirror) => {
    await until('the new list is there', () => mirror.lists === 1);
    assert.deepEqual([...mirror.content.keys()], ['new']);
    assert.equal(store.status.clusterId, '2');
  });
});

test('the end of a prefix is the first key behind it', () => {
  assert.equal(prefixEnd('cilium/.heartbeat').toString(), 'cilium/.heartbeau');
  assert.equal(prefixEnd('a/').toString(), 'a0');
});
