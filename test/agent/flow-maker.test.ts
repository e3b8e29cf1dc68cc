import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { FlowEnds } from '../../src/agent/monitor/flow-ends.ts';
import { FlowMaker } from '../../src/agent/monitor/flow-maker.ts';
import { RESERVED } from '../../src/core/identity.ts';
import { parseAddress } from '../../src/core/ip.ts';
import { logPrefix, pointOfPrefix, VERDICT_POINTS } from '../../src/datapath/verdict-log.ts';
import { collectGarbage } from '../../src/host/memory.ts';
import { until } from '../lab/namespace.ts';
import { idleAgent } from './idle-agent.ts';

const point = (name: string) => {
  const found = VERDICT_POINTS.find((each) => each.name === name);
  assert.ok(found !== undefined, name);
  return found;
};

/** An IPv4 packet from 10.0.0.1 to 10.0.0.2. */
function packet(protocol: number, transport: string): Buffer {
  const header = `45000054 00004000 40${protocol.toString(16).padStart(2, '0')}0000 0a000001 0a000002`;
  return Buffer.from((header + transport).replaceAll(' ', ''), 'hex');
}

const SYN = '9c401f90 00000001 00000000 50020000 00000000';
const told = { inDevice: 2, outDevice: 0, hook: 0, time: 1 };

test('whatever bytes the kernel tells of, a record makes sense or there is none', async (t) => {
  const maker = new FlowMaker((await idleAgent(t)).agent);
  const bytes = fc.uint8Array({ maxLength: 128 });
  const first = fc.constantFrom(0x45, 0x4f, 0x60, 0x00);
  const protocol = fc.constantFrom(1, 6, 17, 58, 132, 47, 44, 0);
  fc.assert(
    fc.property(
      bytes,
      first,
      protocol,
      fc.nat(4),
      fc.constantFrom(...VERDICT_POINTS),
      (data, start, next, hook, at) => {
        const payload = Buffer.from(data);
        payload[0] = start;
        if (start === 0x60) payload[6] = next;
        else payload[9] = next;
        const flow = maker.make({ ...told, point: at, payload, hook }, 7);
        if (flow === undefined) return;
        assert.deepEqual(JSON.parse(JSON.stringify(flow)), flow);
        for (const end of [flow.source, flow.destination]) assert.ok(parseAddress(end.address) !== undefined);
        for (const port of [flow.sourcePort, flow.destinationPort])
          assert.ok(port === undefined || (port >= 0 && port <= 65_535));
        assert.ok([flow.source.self, flow.destination.self].filter((self) => self === true).length === 1);
      },
    ),
    { numRuns: 5000 },
  );
});

test('each prefix of a rule leads to its kind and direction, and no other text does', () => {
  for (const each of VERDICT_POINTS) assert.equal(pointOfPrefix(logPrefix(each)), each);
  for (const text of ['', 'mesh-agent:', 'mesh-agent:no_rule', 'mesh-dns-query', 'mesh-agent:toString'])
    assert.equal(pointOfPrefix(text), undefined);
});

test('an answer is told by the policy of the other direction, and asked about as the connection was opened', async (t) => {
  const maker = new FlowMaker((await idleAgent(t)).agent);
  const flow = maker.make({ ...told, point: point('no_rule_out'), payload: packet(6, SYN) }, 0);
  assert.deepEqual([flow?.direction, flow?.reply], ['ingress', true]);
  assert.deepEqual(flow?.explain, ['policy', 'explain', 'self', '10.0.0.1', 'tcp/40000']);
});

test('the verdict of the kernel stands where the policies say otherwise by now', async (t) => {
  const { agent } = await idleAgent(t);
  const maker = new FlowMaker(agent);
  const before = maker.make({ ...told, point: point('deny_rule_in'), payload: packet(6, SYN) }, 0);
  assert.deepEqual(before?.policy, { reason: 'earlier-run', rules: [] }, 'nothing is known yet');
  agent.reconciler.open();
  // No policy selects this machine, so nothing would be dropped now.
  const flow = maker.make({ ...told, point: point('deny_rule_in'), payload: packet(6, SYN) }, 0);
  assert.deepEqual([flow?.verdict, flow?.dropReason?.number], ['DROPPED', 181]);
  assert.deepEqual(flow?.policy, { reason: 'changed-meanwhile', rules: [] });
});

test('a machine that is not registered, and a stranger, have their reserved identities', async (t) => {
  const maker = new FlowMaker((await idleAgent(t)).agent);
  const flow = maker.make({ ...told, point: point('no_rule_in'), payload: packet(1, '08000000 00000000') }, 0);
  assert.deepEqual([flow?.source.identity, flow?.destination.identity], [RESERVED.world, RESERVED.init]);
  assert.deepEqual([flow?.icmp, flow?.sourcePort], [{ type: 8, code: 0 }, undefined]);
  assert.deepEqual(flow?.explain.at(-1), 'icmp/8');
});

test('of the many names that share an address a packet is told the first ones', async (t) => {
  const { agent } = await idleAgent(t);
  const addresses = [{ address: '10.0.0.9', expires: 0 }];
  const list = () => Array.from({ length: 50_000 }, (_, each) => ({ name: `n${each}.example.com`, addresses }));
  const ends = new FlowEnds(Object.create(agent, { names: { value: { list } } }));
  const address = parseAddress('10.0.0.9') ?? assert.fail();
  ends.index();
  await until('they are known', () => ends.find(address, false).names !== undefined);
  assert.deepEqual(ends.find(address, false).names?.length, 16);
});

test('a flood of ever new addresses and ports keeps no memory of them', async (t) => {
  const maker = new FlowMaker((await idleAgent(t)).agent);
  const payload = packet(17, '00350400 00080000');
  const round = (from: number): void => {
    for (let i = 0; i < 50_000; i++) {
      payload.writeUInt32BE(from + i, 12);
      payload.writeUInt16BE(i & 0xffff, 22);
      maker.make({ ...told, point: point('no_rule_in'), payload }, i);
    }
  };
  round(0);
  await collectGarbage();
  const before = process.memoryUsage().heapUsed;
  for (let n = 1; n < 6; n++) round(n * 50_000);
  await collectGarbage();
  const grown = (process.memoryUsage().heapUsed - before) / 2 ** 20;
  assert.ok(grown < 30, `${grown} MB`);
});
