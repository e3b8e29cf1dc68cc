import assert from 'node:assert/strict';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { after, test } from 'node:test';
import fc from 'fast-check';
import { Responder } from '../../src/agent/dns/responder.ts';
import { DnsServer, type DnsServerOptions } from '../../src/agent/dns/server.ts';
import type { NameFacts } from '../../src/agent/dns/zone.ts';
import { parseAddress } from '../../src/core/ip.ts';
import { dnsQuery, readReply } from '../lab/dns-message.ts';
import { until } from '../lab/namespace.ts';

const HOST = '127.18.53.1';
const NAME = 'api.prod.svc.cluster.local';
const address = parseAddress('10.96.0.10') ?? assert.fail();

const port80 = { name: 'http', protocol: 'TCP', port: 80 };
const headless = Array.from({ length: 100 }, (_, index) => ({
  address: parseAddress(`10.1.0.${index}`) ?? assert.fail(),
  cluster: 'a',
  hostname: undefined,
  ports: [port80],
}));

const FACTS: NameFacts = {
  isReady: () => true,
  named: (name) => {
    if (name === 'prod/api') return [{ kind: 'own', frontends: [{ address, ports: [port80] }], headless: undefined }];
    return name === 'prod/many' ? [{ kind: 'own', frontends: [], headless }] : [];
  },
  hasNamespace: (namespace) => namespace === 'prod',
};

const ZONES = [{ kind: 'cluster', apex: ['svc', 'cluster', 'local'] }] as const;
const responderOf = (): Responder => new Responder({ zones: ZONES, ttl: 5, address, facts: FACTS });

const open: { close(): unknown }[] = [];
after(async () => {
  for (const each of open) await each.close();
});

let port = 21_053;
async function serve(
  limits: DnsServerOptions['limits'] = {},
  perSecond = 1000,
): Promise<{ responder: Responder; port: number; server: DnsServer }> {
  const responder = responderOf();
  const server = await DnsServer.open({ host: HOST, port: ++port, responder, perSecond, limits });
  open.push(server);
  return { responder, port, server };
}

/** Sends from a loopback address; undefined when no answer came in time. */
async function askUdp(to: number, data: Buffer, timeoutMs = 2000): Promise<Buffer | undefined> {
  const socket = createSocket('udp4');
  try {
    socket.send(data, to, HOST);
    return (await once(socket, 'message', { signal: AbortSignal.timeout(timeoutMs) }))[0];
  } catch {
    return undefined;
  } finally {
    socket.close();
  }
}

class Stream {
  readonly socket: Socket;
  received: Buffer = Buffer.alloc(0);
  closed = false;

  constructor(to: number) {
    this.socket = connect(to, HOST);
    this.socket.on('data', (data: Buffer) => {
      this.received = Buffer.concat([this.received, data]);
    });
    this.socket.on('error', () => undefined);
    this.socket.on('close', () => {
      this.closed = true;
    });
    open.push({ close: () => this.socket.destroy() });
  }

  get replies(): Buffer[] {
    const found: Buffer[] = [];
    for (let at = 0; at + 2 <= this.received.length; ) {
      const end = at + 2 + this.received.readUInt16BE(at);
      if (end > this.received.length) break;
      found.push(this.received.subarray(at + 2, end));
      at = end;
    }
    return found;
  }
}

function framed(data: Buffer): Buffer {
  const length = Buffer.alloc(2);
  length.writeUInt16BE(data.length);
  return Buffer.concat([length, data]);
}

const query = (id = 1): Buffer => dnsQuery({ name: NAME, type: 1, id });

test('any bytes are answered with a readable message or not at all, and no answer is an answer to an answer', () => {
  const responder = responderOf();
  const good = [
    query(),
    dnsQuery({ name: 'nobody.prod.svc.cluster.local', type: 33, edns: { size: 1232 } }),
    dnsQuery({ name: 'example.com', type: 255, edns: { size: 9, version: 3 } }),
  ];
  const bytes = fc.uint8Array({ maxLength: 600 }).map((each) => Buffer.from(each));
  const mutated = fc
    .tuple(
      fc.constantFrom(...good),
      fc.array(fc.tuple(fc.nat(80), fc.nat(255)), { maxLength: 6 }),
      fc.nat(80),
      fc.boolean(),
    )
    .map(([message, changes, cut, isCut]) => {
      const copy = Buffer.from(message);
      for (const [at, value] of changes) copy[at % copy.length] = value;
      return isCut ? copy.subarray(0, cut) : copy;
    });
  const looping = fc
    .tuple(fc.nat(0x3fff), fc.nat(255))
    .map(([to, tail]) => Buffer.from([0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0 | (to >> 8), to & 255, 0, tail, 0, 1]));
  fc.assert(
    fc.property(
      fc.oneof(bytes, mutated, looping),
      fc.constantFrom('udp' as const, 'tcp' as const),
      (data, transport) => {
        const reply = responder.respond(data, transport);
        if (reply === undefined) return;
        assert.ok((data.readUInt16BE(2) & 0x8000) === 0);
        assert.ok((reply.readUInt16BE(2) & 0x8000) !== 0);
        assert.equal(reply.readUInt16BE(0), data.readUInt16BE(0));
        assert.ok(reply.length <= Math.max(512, data.length + 200), `${data.length} became ${reply.length}`);
        readReply(reply);
        assert.equal(responder.respond(reply, transport), undefined);
      },
    ),
    { numRuns: 20_000 },
  );
});

test('malformed queries are told so, other requests are not implemented, nonsense is dropped, and each is counted', () => {
  const responder = responderOf();
  const changed = (at: number, value: number, from = query()): Buffer => {
    const copy = Buffer.from(from);
    copy.writeUInt16BE(value, at);
    return copy;
  };
  const rcode = (data: Buffer): number | undefined => {
    const reply = responder.respond(data, 'udp');
    return reply && reply.readUInt16BE(2) & 15;
  };
  const edns = dnsQuery({ name: NAME, type: 1, edns: { size: 1232 } });
  const twice = changed(10, 2, Buffer.concat([edns, edns.subarray(edns.length - 11)]));
  const compressed = Buffer.from([0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 4, 0, 1, 0, 1]);
  for (const data of [
    changed(4, 0),
    changed(4, 2),
    changed(6, 1),
    query().subarray(0, 20),
    Buffer.concat([query(), Buffer.of(0)]),
    twice,
    compressed,
  ])
    assert.equal(rcode(data), 1, data.toString('hex'));
  for (const opcode of [1, 2, 4, 5]) assert.equal(rcode(changed(2, opcode << 11)), 4);
  for (const data of [Buffer.alloc(0), Buffer.alloc(11), changed(2, 0x8180)]) assert.equal(rcode(data), undefined);
  assert.deepEqual(responder.counts, { malformed: 7, unsupported: 4, nonsense: 3 });
});

test('UDP and TCP on one address, with answers in the order of the questions of a connection', async () => {
  const { port: at, responder } = await serve();
  const reply = await askUdp(at, query());
  assert.deepEqual(readReply(reply ?? assert.fail('no answer')).answers, [`${NAME} 5 A 10.96.0.10`]);
  const stream = new Stream(at);
  const all = Buffer.concat([1, 2, 3].map((id) => framed(query(id))));
  // Cut where it hurts: within a length, and within a message.
  for (const [from, to] of [
    [0, 1],
    [1, 30],
    [30, all.length],
  ] as const) {
    stream.socket.write(all.subarray(from, to));
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await until('three answers', () => stream.replies.length === 3);
  assert.deepEqual(
    stream.replies.map((each) => readReply(each).id),
    [1, 2, 3],
  );
  assert.deepEqual(responder.counts, { answered: 4 });
});

test('an address that somebody has is an error, whichever transport has it', async () => {
  const taken = createSocket('udp4');
  open.push(taken);
  await new Promise<void>((resolve) => taken.bind(++port, HOST, resolve));
  const options = { host: HOST, port, responder: responderOf(), perSecond: 10 };
  await assert.rejects(DnsServer.open(options), { code: 'EADDRINUSE' });
  const { port: ours } = await serve();
  await assert.rejects(DnsServer.open({ ...options, port: ours }), { code: 'EADDRINUSE' });
  assert.ok(await askUdp(ours, query()), 'the first one goes on');
});

test('more queries than allowed are dropped and counted, and the next second has its own', async () => {
  const { port: at, responder } = await serve({}, 5);
  const socket = createSocket('udp4');
  open.push(socket);
  for (let id = 0; id < 60; id++) socket.send(query(id), at, HOST);
  await until('all have come', () => {
    const { answered = 0, limited = 0 } = responder.counts;
    return answered + limited === 60;
  });
  assert.ok((responder.counts.limited ?? 0) >= 30, JSON.stringify(responder.counts));
  await until('one is answered again', async () => (await askUdp(at, query(), 300)) !== undefined);
});

test('questions that are dear do not keep the agent from its work, however many come, and others are answered soon', async () => {
  const spin = (): readonly [] => {
    const end = process.cpuUsage();
    while (process.cpuUsage(end).user < 20_000) Math.sqrt(2);
    return [];
  };
  const dear: NameFacts = { ...FACTS, named: (name) => (name === 'prod/dear' ? spin() : FACTS.named(name)) };
  const responder = new Responder({ zones: ZONES, ttl: 5, address, facts: dear });
  const at = ++port;
  open.push(await DnsServer.open({ host: HOST, port: at, responder, perSecond: 1000 }));
  const asked = dnsQuery({ name: 'dear.prod.svc.cluster.local', type: 1 });
  const stream = new Stream(at);
  stream.socket.write(Buffer.concat(Array.from({ length: 500 }, () => framed(asked))));
  const socket = createSocket('udp4');
  open.push(socket);
  for (let each = 0; each < 200; each++) socket.send(asked, at, HOST);
  await until('the connection is cut', () => stream.closed);
  await until('most are not answered', () => (responder.counts.limited ?? 0) > 100);
  assert.ok((responder.counts['no-name'] ?? 0) < 100, JSON.stringify(responder.counts));
  await until('another one is answered', async () => (await askUdp(at, query(), 300)) !== undefined);
});

test('too many connections put out the silent ones, not who asks', async () => {
  const { port: at } = await serve({ connections: 4 });
  const silent = [1, 2, 3].map(() => new Stream(at));
  const busy = new Stream(at);
  await until('all are connected', () => [...silent, busy].every(({ socket }) => !socket.connecting));
  busy.socket.write(framed(query()));
  await until('it is answered', () => busy.replies.length === 1);
  const later = [1, 2, 3].map(() => new Stream(at));
  await until('the silent ones are out', () => silent.every(({ closed }) => closed));
  busy.socket.write(framed(query()));
  later[2]?.socket.write(framed(query()));
  await until('who asks is answered', () => busy.replies.length === 2 && later[2]?.replies.length === 1);
});

test('a connection that says nothing, says nonsense, or too much at once ends', async () => {
  const { port: at, responder } = await serve({ idleMs: 200, lifeMs: 1000 });
  const silent = new Stream(at);
  await until('the silent one is out', () => silent.closed);
  const nonsense = new Stream(at);
  nonsense.socket.write(framed(Buffer.alloc(5)));
  await until('the nonsense is out', () => nonsense.closed);
  const huge = new Stream(at);
  huge.socket.write(Buffer.of(0xff, 0xff, 1));
  await until('the huge one is out', () => huge.closed);
  assert.deepEqual(responder.counts, { nonsense: 2 });
  const slow = new Stream(at);
  const drip = setInterval(() => slow.socket.write(Buffer.of(1)), 50);
  open.push({ close: () => clearInterval(drip) });
  await until('who only drips is out', () => slow.closed);
  clearInterval(drip);
});

test('who reads no answers is cut long before he is idle', async () => {
  const { port: at, responder } = await serve({ idleMs: 3_600_000, lifeMs: 3_600_000, workMs: 1000 }, 1_000_000);
  // Nobody listens to its data, so that it reads next to none.
  const socket = connect(at, HOST);
  open.push({ close: () => socket.destroy() });
  socket.on('error', () => undefined);
  // More than two kernels' buffers hold.
  const asked = framed(dnsQuery({ name: 'many.prod.svc.cluster.local', type: 1 }));
  const many = Buffer.concat(Array.from({ length: 2000 }, () => asked));
  await until('it is cut', () => {
    // It does not see its end but by writing.
    if (socket.writableLength < 4 * many.length) socket.write(many);
    return socket.destroyed;
  });
  assert.deepEqual(Object.keys(responder.counts), ['answered']);
});

test('who is not on this machine gets nothing', async () => {
  const responder = responderOf();
  // The socket hears everybody, as if the kernel had let a packet from outside in.
  const server = await DnsServer.open({ host: '0.0.0.0', port: ++port, responder, perSecond: 100 });
  open.push(server);
  const own = await ownAddress();
  const socket = createSocket('udp4');
  open.push(socket);
  await new Promise<void>((resolve) => socket.bind(0, own, resolve));
  socket.send(query(), port, own);
  await until('it is counted', () => responder.counts.foreign === 1);
  const stream = connect({ port, host: own, localAddress: own });
  stream.on('error', () => undefined);
  await once(stream, 'close');
  assert.deepEqual(responder.counts, { foreign: 2 });
});

async function ownAddress(): Promise<string> {
  const { networkInterfaces } = await import('node:os');
  const all = Object.values(networkInterfaces()).flatMap((each) => each ?? []);
  return all.find(({ family, internal }) => family === 'IPv4' && !internal)?.address ?? assert.fail('no address');
}
