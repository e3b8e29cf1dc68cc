import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { VerdictKind } from '../../src/datapath/verdict-log.ts';
import { type Namespace, until } from '../lab/namespace.ts';
import { counter, feedNft } from './suite/borders.ts';
import { Driver } from './suite/driver.ts';
import { type Ends, ipv4Frame, ipv6Frame, tcp, udp } from './suite/ip-frames.ts';
import { OPEN, type PolicySpec } from './suite/spec.ts';
import { M, P, type Wire, wire } from './suite/wire.ts';

// Packets that connection tracking would have put together or thrown away before us: here they come as they are.

const PEER = 70_000;
const hosts = { [P.v4]: PEER, [P.v6]: PEER };
const allow = (...rows: string[]): PolicySpec => ({ of: { [PEER]: rows } });
const UDP = 17;
const TCP = 6;

let lab: Wire;
let driver: Driver;
let inward: { readonly v4: Ends; readonly v6: Ends };
let outward: Ends;

const macOf = (namespace: Namespace): string =>
  /link\/ether (\S+)/.exec(namespace.run('ip', 'link', 'show', 'eth0'))?.[1] ?? '';

before(async () => {
  lab = await wire('packets', { tcp: [80, 81], udp: [80, 81] });
  driver = await Driver.start('bpf', lab.machine.namespace);
  const [fromMac, toMac] = [macOf(lab.peer.namespace), macOf(lab.machine.namespace)];
  inward = {
    v4: { fromMac, toMac, from: P.v4, to: M.v4 },
    v6: { fromMac, toMac, from: P.v6, to: M.v6 },
  };
  outward = { fromMac: toMac, toMac: fromMac, from: M.v4, to: P.v4 };
});
after(async () => {
  await driver?.close();
  await lab?.close();
});

function sendFrame(namespace: Namespace, frame: Buffer): void {
  namespace.feed(frame as never, 'socat', '-u', '-', 'INTERFACE:eth0');
}

async function counted(kind: VerdictKind, direction: 'ingress' | 'egress'): Promise<number> {
  const { verdicts = [] } = await driver.status();
  return verdicts.find((each) => each.kind === kind && each.direction === direction)?.packets ?? 0;
}

/** Packets of a datagram to a port that arrive behind our programs. */
function seeing(namespace: Namespace, match: string): () => number {
  feedNft(
    namespace,
    `table inet see { counter here { }; chain a { type filter hook prerouting priority -500; ${match} counter name here; }; }`,
  );
  return () => counter(namespace, 'see', 'here');
}

for (const family of ['v4', 'v6'] as const) {
  test(`${family}: datagrams in fragments pass both ways where they may, and nowhere else`, async () => {
    await driver.apply({ hosts, ingress: allow('allow udp/80'), egress: allow('allow udp/80') });
    const flows = await Promise.all([
      lab.peer.flow(M[family], 80, { everyMs: 10, bytes: 4000 }),
      lab.machine.flow(P[family], 80, { everyMs: 10, bytes: 4000 }),
    ]);
    const denied = await Promise.all([
      lab.peer.flow(M[family], 81, { everyMs: 10, bytes: 4000 }),
      lab.machine.flow(P[family], 81, { everyMs: 10, bytes: 4000 }),
    ]);
    await new Promise((resolve) => setTimeout(resolve, 400));
    for (const { sent, received } of await Promise.all(flows.map((flow) => flow.stop())))
      assert.deepEqual([received, sent > 5], [sent, true]);
    for (const { received } of await Promise.all(denied.map((flow) => flow.stop()))) assert.equal(received, 0);
  });
}

test('fragments that enter in any order are put together', async (t) => {
  const { namespace } = lab.machine;
  await driver.apply({ hosts, ingress: allow('allow udp/80'), egress: {} });
  feedNft(
    namespace,
    'table inet whole { counter here { }; chain a { type filter hook input priority 0; udp dport 80 udp length 24 counter name here; }; }',
  );
  t.after(() => namespace.run('nft', 'delete', 'table', 'inet', 'whole'));
  const whole = udp(4242, 80, 24);
  sendFrame(
    lab.peer.namespace,
    ipv4Frame(inward.v4, { protocol: UDP, payload: whole.subarray(16), offset: 16, id: 99 }),
  );
  sendFrame(
    lab.peer.namespace,
    ipv4Frame(inward.v4, { protocol: UDP, payload: whole.subarray(0, 16), more: true, id: 99 }),
  );
  await until('the datagram arrives', () => counter(namespace, 'whole', 'here') === 1);
});

test('a later fragment leaves only behind its first one', async (t) => {
  const { namespace } = lab.machine;
  const far = lab.peer.namespace;
  const arrived = seeing(far, `ip saddr ${M.v4} ip frag-off & 0x1fff != 0`);
  t.after(() => far.run('nft', 'delete', 'table', 'inet', 'see'));
  const later = (id: number): Buffer =>
    ipv4Frame(outward, { protocol: UDP, payload: Buffer.alloc(16), offset: 16, id });
  const first = (id: number): Buffer => ipv4Frame(outward, { protocol: UDP, payload: udp(9, 80, 16), more: true, id });
  await driver.apply({ hosts, ingress: {}, egress: allow('allow udp/80') });
  const before = await counted('no_rule', 'egress');
  // Whoever sends is told of the drop.
  assert.throws(() => sendFrame(namespace, later(1)), /No buffer space/);
  await until('it is denied', async () => (await counted('no_rule', 'egress')) === before + 1);
  assert.equal(arrived(), 0);
  sendFrame(namespace, first(2));
  sendFrame(namespace, later(2));
  await until('it arrives', () => arrived() === 1);
  // Where everything may leave nothing has to be known of it.
  await driver.apply({ hosts, ingress: {}, egress: OPEN });
  sendFrame(namespace, later(3));
  await until('it arrives', () => arrived() === 2);
});

test('extension headers hide no port, and more than anybody needs are malformed', async (t) => {
  await driver.apply({ hosts, ingress: allow('allow udp/80'), egress: {} });
  const arrived = seeing(lab.machine.namespace, 'meta l4proto udp udp dport { 80, 81 }');
  t.after(() => lab.machine.namespace.run('nft', 'delete', 'table', 'inet', 'see'));
  const frame = (port: number, extensions: number): Buffer =>
    ipv6Frame(inward.v6, { protocol: UDP, payload: udp(4242, port), extensions });
  sendFrame(lab.peer.namespace, frame(80, 5));
  await until('it arrives', () => arrived() === 1);
  const [denied, malformed] = [await counted('no_rule', 'ingress'), await counted('malformed', 'ingress')];
  sendFrame(lab.peer.namespace, frame(81, 5));
  await until('it is denied', async () => (await counted('no_rule', 'ingress')) === denied + 1);
  sendFrame(lab.peer.namespace, frame(80, 7));
  await until('it is malformed', async () => (await counted('malformed', 'ingress')) === malformed + 1);
  assert.equal(arrived(), 1);
});

test('headers that do not add up are dropped and counted', async () => {
  await driver.apply({ hosts, ingress: OPEN, egress: OPEN });
  const frames = [
    ipv4Frame(inward.v4, { protocol: UDP, payload: udp(1, 80), words: 4 }),
    // A transport header that is cut off: what is to be judged is not there.
    ipv4Frame(inward.v4, { protocol: TCP, payload: Buffer.alloc(4) }),
    ipv4Frame(inward.v4, { protocol: UDP, payload: Buffer.alloc(4), more: true }),
    ipv6Frame(inward.v6, { protocol: UDP, payload: Buffer.alloc(3) }),
  ];
  for (const frame of frames) {
    const before = await counted('malformed', 'ingress');
    sendFrame(lab.peer.namespace, frame);
    await until('it is counted', async () => (await counted('malformed', 'ingress')) === before + 1);
  }
});

test('a frame of a VLAN is left to the device of the VLAN, one with a priority alone is judged', async () => {
  await driver.apply({ hosts, ingress: {}, egress: {} });
  const before = await counted('no_rule', 'ingress');
  const frame = (vlan: number): Buffer => ipv4Frame(inward.v4, { protocol: UDP, payload: udp(4242, 81), vlan });
  const priority = 3 << 13;
  sendFrame(lab.peer.namespace, frame(5));
  sendFrame(lab.peer.namespace, frame(priority));
  await until('one is denied', async () => (await counted('no_rule', 'ingress')) > before);
  sendFrame(lab.peer.namespace, frame(priority));
  await until('another is denied', async () => (await counted('no_rule', 'ingress')) === before + 2);
});

test('a segment from nowhere, which may be an answer, opens nothing for those behind it', async (t) => {
  const { namespace } = lab.machine;
  const [SYN, ACK] = [2, 16];
  // Anything may be opened from here, so anything that is no beginning may be the answer to it.
  await driver.apply({ hosts, ingress: allow('allow tcp/80'), egress: OPEN });
  const arrived = seeing(namespace, 'tcp dport { 81, 40081 }');
  t.after(() => namespace.run('nft', 'delete', 'table', 'inet', 'see'));
  const send = (port: number, flags: number): void =>
    sendFrame(lab.peer.namespace, ipv4Frame(inward.v4, { protocol: TCP, payload: tcp(5555, port, flags) }));
  const isDenied = async (port: number, flags: number): Promise<void> => {
    const before = await counted('no_rule', 'ingress');
    send(port, flags);
    await until('it is denied', async () => (await counted('no_rule', 'ingress')) === before + 1);
  };
  send(40_081, ACK);
  await until('it passes', () => arrived() === 1);
  await isDenied(40_081, SYN);
  send(40_081, ACK);
  await until('the other passes', () => arrived() === 2);
  await isDenied(81, ACK);
});
