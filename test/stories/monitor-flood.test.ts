import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { after, before, test } from 'node:test';
import type { FlowEvent } from '../../src/api/flow-types.ts';
import type { MeshLab } from '../lab/mesh-lab.ts';
import { until } from '../lab/namespace.ts';
import { CLUSTER_A, enforce, policyFor, startStory } from '../lab/story.ts';

/** A flood of packets that the rules drop. */
const RATE = 50;
const BUFFER = 64;
const NOBODY = policyFor('nobody', { ingress: [{}] });
const FLOOD = `
  const socket = require('node:dgram').createSocket('udp4');
  socket.connect(9, process.argv[1], function more() {
    for (let i = 0; i < 64; i++) socket.send('x', () => undefined);
    setImmediate(more);
  });`;

let lab: MeshLab;
let flood: ChildProcess;

before(async () => {
  lab = await startStory([CLUSTER_A], { config: { monitor: { rate: RATE, buffer: BUFFER } } });
  await enforce(lab, NOBODY);
  flood = lab.topology.world.namespace.start(process.execPath, ['-e', FLOOD, lab.machine.ipv4]);
});
after(() => lab?.close());

const denied = async (): Promise<number> => (await lab.agent.status()).datapath.denied.ingress.packets;

test('in a flood few are told of, the rest is counted and said, and what is remembered stays bounded', async () => {
  const events: FlowEvent[] = [];
  const leave = new AbortController();
  const following = (async () => {
    for await (const event of lab.agent.api.flows({ follow: '1' }, leave.signal)) events.push(event);
  })();
  const from = await denied();
  await until('thousands are dropped', async () => (await denied()) - from > 20_000);
  const count = (wanted: 'flow' | 'lost'): number =>
    events.reduce((sum, event) => {
      if ('flow' in event) return sum + (wanted === 'flow' ? 1 : 0);
      return sum + ('lost' in event && wanted === 'lost' ? event.lost.packets : 0);
    }, 0);
  await until('the loss is told', () => count('lost') > 10_000);
  const shown = count('flow');
  assert.ok(shown > 0 && shown < count('lost') / 20, `${shown} shown, ${count('lost')} not`);
  leave.abort();
  await following;
  const { stdout, stderr, code } = await lab.agent.run('monitor', '--last', '1000', '--compact');
  assert.equal(code, 0);
  assert.ok(stdout.split('\n').filter((line) => line.startsWith('xx drop')).length <= BUFFER);
  assert.match(stdout, /\d+ packets not shown: more came than `monitor.rate` tells of/);
  assert.match(stderr, /packets shown, \d+ not/);
});

test('a drop of another kind is seen in the middle of a flood', async () => {
  await enforce(
    lab,
    policyFor('deny', {
      ingressDeny: [{ fromEntities: ['all'], toPorts: [{ ports: [{ port: '81', protocol: 'TCP' }] }] }],
    }),
    'deny.yaml',
  );
  assert.equal(await lab.topology.world.probe({ protocol: 'tcp', to: lab.machine.ipv4, port: 81 }), 'blocked');
  // The ring is short and the flood fills it: who follows sees it all the same.
  const leave = new AbortController();
  let seen = false;
  const following = (async () => {
    for await (const event of lab.agent.api.flows({ follow: '1', port: 'tcp/81' }, leave.signal))
      seen ||= 'flow' in event;
  })();
  await until('the drop is told', async () => {
    await lab.topology.world.probe({ protocol: 'tcp', to: lab.machine.ipv4, port: 81 });
    return seen;
  });
  leave.abort();
  await following;
});

test('policies change and the rules keep their limit while the flood goes on', async () => {
  assert.equal(flood.exitCode, null);
  const { namespace } = lab.machine;
  const rules = (): string => namespace.run('nft', 'list', 'chain', 'inet', 'mesh_agent', 'no_rule_in');
  assert.match(rules(), /limit rate 50\/second burst 25 packets/);
  await enforce(lab, policyFor('nobody', { ingress: [{ fromEntities: ['remote-node'] }] }));
  const before = await denied();
  await until('drops go on', async () => (await denied()) > before);
  const { health } = await lab.agent.status();
  assert.deepEqual(
    health.filter(({ code }) => code === 'AGT-MONITOR'),
    [],
  );
});
