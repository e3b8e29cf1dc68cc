import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { type AddressInfo, connect, createServer as createTcpServer } from 'node:net';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setImmediate as nextTurn, setTimeout as pause } from 'node:timers/promises';
import type { Agent } from '../../src/agent/agent.ts';
import { CrowdLimit } from '../../src/agent/probes/crowd-limit.ts';
import { askHello } from '../../src/agent/probes/hello-probe.ts';
import { HelloServer } from '../../src/agent/probes/hello-server.ts';
import { blockedProbe } from '../../src/agent/probes/opinion.ts';
import { type Probed, Prober } from '../../src/agent/probes/prober.ts';
import { ProbeResults } from '../../src/agent/probes/results.ts';
import { doubtful, roundMs } from '../../src/agent/probes/schedule.ts';
import { type Target, targetsOf } from '../../src/agent/probes/targets.ts';
import type { NodeHealthRecord } from '../../src/api/node-health-types.ts';
import { RESERVED } from '../../src/core/identity.ts';
import { type Address, parseAddress } from '../../src/core/ip.ts';
import { EchoSocket } from '../../src/host/echo.ts';
import { native } from '../../src/host/load-native.ts';
import { decodeNodeValue } from '../../src/kvstore/codec/node.ts';
import { until } from '../lab/namespace.ts';
import { nodeValue } from '../lab/values.ts';
import { modelWith, policy } from '../policy/build.ts';

const HERE = '127.0.0.1';

async function freePort(): Promise<number> {
  const server = createTcpServer().listen(0, HERE);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

const address = (text: string): Address => parseAddress(text) ?? assert.fail(text);

function targetAt(ip: string): Target {
  return { ip, address: address(ip), kind: 'node', primary: true, path: 'direct' };
}

test('of what a store announces as addresses of a node, only hosts are probed, and not without end', () => {
  const node = decodeNodeValue(
    Buffer.from(
      nodeValue({
        name: 'n',
        cluster: 'c',
        clusterId: 1,
        healthIpv4: '127.0.0.1',
        addresses: [
          { Type: 'InternalIP', IP: '10.0.0.1' },
          { Type: 'CiliumInternalIP', IP: '10.244.1.1' },
          { Type: 'ExternalIP', IP: '224.0.0.1' },
          { Type: 'ExternalIP', IP: '169.254.169.254' },
          { Type: 'ExternalIP', IP: 'fe80::1' },
          { Type: 'ExternalIP', IP: '::1' },
          { Type: 'ExternalIP', IP: 'ff02::1' },
          { Type: 'ExternalIP', IP: '0.0.0.0' },
          ...Array.from({ length: 100 }, (_, i) => ({ Type: 'ExternalIP', IP: `192.0.2.${i + 1}` })),
        ],
      }),
    ),
  );
  const seen = targetsOf(node, { families: [4, 6], tunnel: true });
  assert.deepEqual(
    seen.slice(0, 3).map(({ ip, kind, primary, path }) => [ip, kind, primary, path]),
    [
      ['10.0.0.1', 'node', true, 'direct'],
      ['10.244.1.1', 'router', false, 'tunnel'],
      ['192.0.2.1', 'node', false, 'direct'],
    ],
  );
  assert.equal(seen.length, 16);
  assert.deepEqual(targetsOf(node, { families: [6], tunnel: true }), []);
  assert.ok(targetsOf(node, { families: [4], tunnel: false }).every(({ kind }) => kind !== 'router'));
});

test('echo requests are answered in both families, and one that cannot be sent is told at once', async (t) => {
  for (const [family, own] of [
    [4, '127.0.0.1'],
    [6, '::1'],
  ] as const) {
    const socket = new EchoSocket(family);
    t.after(() => socket.close());
    const found = await socket.ask({ address: address(own), requests: 3, pauseMs: 100, timeoutMs: 2000 });
    assert.ok('rttMs' in found && found.rttMs >= 0, JSON.stringify(found));
    if (family === 6) continue;
    const broadcast = await socket.ask({
      address: address('255.255.255.255'),
      requests: 3,
      pauseMs: 20,
      timeoutMs: 9000,
    });
    assert.deepEqual(broadcast, { failure: 'not-sent', text: 'EACCES' });
  }
});

test('hundreds of addresses are asked over one socket, and each gets its own answer', async (t) => {
  const socket = new EchoSocket(4);
  t.after(() => socket.close());
  const all = Array.from({ length: 500 }, (_, i) => address(`127.0.${Math.floor(i / 200)}.${(i % 200) + 1}`));
  const found = await Promise.all(
    all.map((each) => socket.ask({ address: each, requests: 3, pauseMs: 1000, timeoutMs: 5000 })),
  );
  assert.equal(found.filter((each) => 'rttMs' in each).length, 500);
});

test('a flood of answers that nobody asked for is not listened to, and what is asked has its answer', async (t) => {
  const identifier = 4711;
  const socket = new EchoSocket(4, { identifier });
  t.after(() => socket.close());
  const ask = () => socket.ask({ address: address(HERE), requests: 3, pauseMs: 50, timeoutMs: 5000 });
  assert.ok('rttMs' in (await ask()));
  const flooding = native().echoOpen(4, 1, () => undefined);
  t.after(() => native().echoClose(flooding));
  // An echo reply: type, code, checksum, identifier, and zeros.
  const answer = Buffer.alloc(32);
  answer.writeUInt16BE(0xffff - identifier, 2);
  answer.writeUInt16BE(identifier, 4);
  for (let sent = 0; sent < 20_000; sent++) {
    native().echoSend(flooding, Buffer.of(127, 0, 0, 1), answer);
    if (sent % 100 === 0) await nextTurn();
  }
  assert.ok('rttMs' in (await ask()));
  assert.ok(socket.strangers > 500 && socket.strangers < 5000, `${socket.strangers}`);
});

test('what answers on the port is judged by its status: a stranger, an error, a server that stays silent', async (t) => {
  const servers = [
    createServer((_request, response) => response.writeHead(503).end()),
    createServer(() => undefined),
    createTcpServer((socket) => {
      socket.on('error', () => undefined);
      socket.end('SSH-2.0-OpenSSH\r\n');
    }),
  ];
  const texts: string[] = [];
  for (const server of servers) {
    server.listen(0, HERE);
    await once(server, 'listening');
    t.after(() => server.close());
    const { port } = server.address() as AddressInfo;
    const outcome = await askHello({ address: HERE, port, timeoutMs: 300 });
    texts.push('text' in outcome ? outcome.text : 'fine');
    if ('closeAllConnections' in server) server.closeAllConnections();
  }
  assert.deepEqual(texts, ['status 503', 'no answer', 'this is no HTTP']);
  const refused = await askHello({ address: HERE, port: await freePort(), timeoutMs: 300 });
  assert.deepEqual(refused, { text: 'connection refused' });
});

interface Answering {
  readonly server: HelloServer;
  readonly port: number;
  readonly troubles: (string | undefined)[];
}

async function answering(t: TestContext, port?: number): Promise<Answering> {
  const troubles: (string | undefined)[] = [];
  const chosen = port ?? (await freePort());
  const server = new HelloServer({
    port: chosen,
    onTrouble: (text) => troubles.push(text),
    retryMs: 50,
    requestMs: 200,
  });
  t.after(() => server.close());
  server.listenOn([HERE]);
  return { server, port: chosen, troubles };
}

test('a client that says nothing, half of something or too much is put out in time', async (t) => {
  const { server, port } = await answering(t);
  await until('it listens', () => server.listening.length === 1);
  for (const said of ['', 'GET /hello HT', `GET /${'x'.repeat(20_000)} HTTP/1.1\r\n\r\n`, '\0\0\0']) {
    const socket = connect(port, HERE);
    socket.on('error', () => undefined);
    if (said !== '') socket.write(said);
    socket.resume();
    const start = performance.now();
    await once(socket, 'close');
    assert.ok(performance.now() - start < 5000, JSON.stringify(said.slice(0, 20)));
  }
  const fine = await askHello({ address: HERE, port, timeoutMs: 2000 });
  assert.ok('latencyMs' in fine, JSON.stringify(fine));
});

test('more connections than nodes can have are refused by the kernel for a while, and it is told', async (t) => {
  const port = await freePort();
  const troubles: (string | undefined)[] = [];
  const server = new HelloServer({ port, onTrouble: (text) => troubles.push(text), perSecond: 10 });
  t.after(() => server.close());
  server.listenOn([HERE]);
  await until('it listens', () => server.listening.length === 1);
  for (let opened = 0; opened < 200 && server.listening.length > 0; opened++) {
    const socket = connect(port, HERE);
    socket.on('error', () => undefined);
    socket.destroySoon();
    await Promise.race([once(socket, 'close'), pause(100)]);
  }
  assert.deepEqual(server.listening, []);
  assert.match(troubles.at(-1) ?? '', /are not answered: there are too many connections/);
  assert.deepEqual(await askHello({ address: HERE, port, timeoutMs: 500 }), { text: 'connection refused' });
  await until('it listens again', () => server.listening.length === 1);
  assert.equal(troubles.at(-1), undefined);
  assert.ok('latencyMs' in (await askHello({ address: HERE, port, timeoutMs: 2000 })));
});

test('a port that is taken is a trouble until it is free, and an address that goes is left', async (t) => {
  const holder = createTcpServer().listen(0, HERE);
  await once(holder, 'listening');
  const { port } = holder.address() as AddressInfo;
  const { server, troubles } = await answering(t, port);
  await until('the trouble is told', () => /port [0-9]+ are not answered: .*EADDRINUSE/.test(troubles.at(-1) ?? ''));
  holder.close();
  await until('it listens', () => server.listening.length === 1 && troubles.at(-1) === undefined);
  server.listenOn([]);
  assert.deepEqual(server.listening, []);
  assert.deepEqual(await askHello({ address: HERE, port, timeoutMs: 500 }), { text: 'connection refused' });
});

test('one source gets so many connections, and all together so many: the oldest makes room', async (t) => {
  const crowd = new CrowdLimit({ total: 5, perSource: 3 });
  const server = createTcpServer((socket) => {
    socket.on('error', () => undefined);
    crowd.admit(socket);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  const closed: string[] = [];
  const open = async (from: string, name: string): Promise<void> => {
    const socket = connect({ port, host: '127.0.0.1', localAddress: from });
    socket.on('error', () => undefined);
    socket.once('close', () => closed.push(name));
    t.after(() => socket.destroy());
    await once(socket, 'connect');
    await until('it is admitted', () => new Promise((resolve) => setTimeout(() => resolve(true), 20)));
  };
  for (const name of ['a1', 'a2', 'a3', 'a4']) await open('127.0.0.2', name);
  await until('the oldest of a is out', () => closed.join() === 'a1');
  for (const name of ['b1', 'b2', 'b3']) await open(name === 'b3' ? '127.0.0.4' : '127.0.0.3', name);
  await until('the oldest of all is out', () => closed.join() === 'a1,a2');
  assert.equal(crowd.size, 5);
});

test('thousands of addresses are probed with few sockets at once, spread over the time', async (t) => {
  let now = 0;
  let most = 0;
  const arrivals: number[] = [];
  const server = createServer((_request, response) => {
    arrivals.push(performance.now());
    most = Math.max(most, ++now);
    response.once('close', () => now--);
    setTimeout(() => response.end(), 20);
  }).listen(0, '0.0.0.0');
  await once(server, 'listening');
  t.after(() => server.close());
  const results = new ProbeResults();
  const prober = new Prober({
    port: (server.address() as AddressInfo).port,
    timeoutMs: 10_000,
    results,
    blocked: () => undefined,
    onFinding: () => undefined,
    onEchoTrouble: (text) => assert.equal(text, undefined),
  });
  t.after(() => prober.close());
  const all: Probed[] = Array.from({ length: 2000 }, (_, i) => ({
    node: `c/n${i}`,
    target: targetAt(`127.1.${Math.floor(i / 200)}.${(i % 200) + 1}`),
  }));
  for (const { node, target } of all) results.retain(node, [target]);
  await prober.round(all, 2000);
  assert.equal(all.filter(({ node }) => results.stateOf(node) === 'reachable').length, 2000);
  assert.ok(most <= 256, `${most} at once`);
  const first = arrivals[0] ?? 0;
  const half = arrivals.filter((at) => at - first < 1000).length;
  assert.ok(half < 1500, `${half} of 2000 in the first half`);
});

test('a prober that is closed ends its probes at once', async (t) => {
  const silent = createTcpServer((socket) => void socket.on('error', () => undefined)).listen(0, HERE);
  await once(silent, 'listening');
  t.after(() => silent.close());
  const results = new ProbeResults();
  const target = targetAt(HERE);
  results.retain('c/n', [target]);
  const prober = new Prober({
    port: (silent.address() as AddressInfo).port,
    timeoutMs: 60_000,
    results,
    blocked: () => undefined,
    onFinding: () => assert.fail('a finding after the end'),
    onEchoTrouble: () => undefined,
  });
  const round = prober.round([{ node: 'c/n', target }], 0);
  setTimeout(() => prober.close(), 50);
  await round;
  assert.equal(results.stateOf('c/n'), 'unknown');
});

test('without the right to send echo requests HTTP alone decides, and that is one trouble', () => {
  const worker = join(import.meta.dirname, 'probes-worker.ts');
  const drop = ['--bounding-set=-net_raw', '--inh-caps=-net_raw'];
  const { stdout, stderr } = spawnSync('setpriv', [...drop, process.execPath, '--no-warnings', worker], {
    encoding: 'utf8',
    timeout: 30_000,
  });
  const seen = JSON.parse(stdout || JSON.stringify(stderr)) as { troubles: string[]; nodes: NodeHealthRecord[] };
  assert.equal(seen.troubles.length, 1, stdout);
  assert.match(seen.troubles[0] ?? '', /open an ICMP socket .*EPERM/);
  for (const { state, addresses } of seen.nodes) {
    assert.equal(state, 'reachable', stdout);
    assert.deepEqual([addresses[0]?.icmp.state, addresses[0]?.http?.state], ['unknown', 'ok'], stdout);
  }
});

test('why policies hold probes back is worked out once for all nodes of an identity, and not at all where they do not', () => {
  let asked = 0;
  const model = modelWith(policy('egress:\n- toEntities: [remote-node]\n  toPorts: [{ports: [{port: "4240"}]}]'));
  const explained = Object.create(model, {
    resolved: { value: model.resolved },
    explain: {
      value: (question: Parameters<typeof model.explain>[0]) => {
        asked++;
        return model.explain(question);
      },
    },
  });
  const agent = {
    ...{ enforcing: true, model: explained, datapath: { name: 'nftables' } },
    ...{
      config: { audit: false, health: { port: 4240 } },
      desired: { border: { failsafe: { egress: [] }, stores: [] } },
    },
    tables: { ipcache: { lookup: () => ({ identity: RESERVED.remoteNode }) } },
  } as unknown as Agent;
  for (let node = 0; node < 500; node++) {
    assert.equal(blockedProbe(agent, targetAt(`10.0.0.${node % 250}`), 'http'), undefined);
    assert.match(blockedProbe(agent, targetAt(`10.0.0.${node % 250}`), 'icmp') ?? '', /no egress policy allows it/);
  }
  assert.ok(asked >= 1 && asked < 50, `${asked}`);
});

test('many nodes make a round longer and not dearer, and what failed is looked at again in each interval', () => {
  assert.deepEqual([roundMs(0, 60_000), roundMs(120, 60_000), roundMs(5000, 60_000)], [60_000, 60_000, 2_500_000]);
  const all = Array.from({ length: 5000 }, (_, i) => i);
  const of = (addresses: readonly number[], failing: number): number[] =>
    doubtful(addresses, { failed: (each) => each < failing, intervalMs: 60_000 });
  assert.deepEqual(of(all, 3), [0, 1, 2]);
  assert.equal(of(all, 5000).length, 60);
  assert.deepEqual(of(all.slice(0, 120), 3), [], 'each is probed in the interval anyway');
});
