import assert from 'node:assert/strict';
import { test } from 'node:test';
import { until } from '../lab/namespace.ts';
import { OverlayLab } from './overlay-lab.ts';
import type { HeardPacket } from './overlay-listener.ts';

const WAYS = [
  { inner: 4, outer: 4, host: '10.1.0.5', via: '192.0.2.2', own: '192.0.2.1', from: '192.0.2.1' },
  { inner: 6, outer: 4, host: 'fd00:1::5', via: '192.0.2.2', own: '2001:db8::1', from: '192.0.2.1' },
  { inner: 4, outer: 6, host: '10.1.0.6', via: '2001:db8::2', own: '192.0.2.1', from: '2001:db8::1' },
  { inner: 6, outer: 6, host: 'fd00:1::6', via: '2001:db8::2', own: '2001:db8::1', from: '2001:db8::1' },
] as const;

test('packets leave with the own identity as network number, for both families inside and outside', async () => {
  const lab = new OverlayLab();
  try {
    const heard = await lab.listen();
    const driver = await lab.driver();
    await driver.apply(lab.scene({ hosts: WAYS.map(({ host, via }) => [host, via]) }));
    for (const way of WAYS) {
      const arrived = (): boolean => heard.some(({ destination }) => destination === way.host);
      await until(`a packet to ${way.host} arrives`, () => {
        lab.a.try('ping', '-c', '1', '-W', '0.1', way.host);
        return arrived();
      });
      const packet = heard.find(({ destination }) => destination === way.host);
      assert.deepEqual(
        { vni: packet?.vni, source: packet?.source, outer: packet?.outer },
        { vni: 59102, source: way.own, outer: way.from },
      );
    }
  } finally {
    await lab.close();
  }
});

test('two machines reach each other through the overlay by their own addresses, both ways', async () => {
  const lab = new OverlayLab();
  try {
    const machines = [
      { where: lab.a, own: ['10.9.0.1', 'fd00:9::1'], peer: ['10.9.0.2', 'fd00:9::2'], node: '192.0.2.2' },
      { where: lab.b, own: ['10.9.0.2', 'fd00:9::2'], peer: ['10.9.0.1', 'fd00:9::1'], node: '192.0.2.1' },
    ] as const;
    for (const { where, own, peer, node } of machines) {
      const driver = await lab.driver(where);
      await driver.apply({
        overlay: {
          source4: own[0],
          source6: own[1],
          ownAddresses: [`${own[0]}/32`, `${own[1]}/128`],
          underlayMtu: 1500,
        },
        hosts: peer.map((address) => [address, node]),
        nodes: [node],
      });
      // What the policy's table does: the inner destination address of the frame is not ours.
      where.feed(
        'table netdev arrive { chain arrive { type filter hook ingress device "mesh_vxlan" priority 0; meta pkttype set host; }; }',
        'nft',
        '-f',
        '-',
      );
      // Strict filtering for the whole machine must not drop what arrives on the overlay.
      where.run('sysctl', '-qw', 'net.ipv4.conf.all.rp_filter=1');
    }
    for (const { where, peer } of machines) {
      for (const address of peer) {
        await until(`${address} answers`, () => where.try('ping', '-c', '1', '-W', '1', address).code === 0);
        // The largest packet that fits goes through whole.
        const size = address.includes(':') ? 1450 - 48 : 1450 - 28;
        assert.equal(where.try('ping', '-c', '1', '-W', '2', '-M', 'do', '-s', String(size), address).code, 0);
      }
    }
  } finally {
    await lab.close();
  }
});

test('a change of the identity loses no packet', async () => {
  const lab = new OverlayLab();
  try {
    const heard = await lab.listen();
    const driver = await lab.driver();
    const scene = lab.scene({ manyHosts: { first: '10.16.0.0', count: 5000, vias: ['192.0.2.2'] } });
    await driver.apply(scene);
    await until('the first packet arrives', () => {
      lab.a.try('ping', '-c', '1', '-W', '0.1', '10.16.7.8');
      return heard.length > 0;
    });
    const told = (): HeardPacket[] => heard.filter(({ destination }) => destination === '10.16.7.7');
    const ping = lab.a.start('ping', ['-i', '0.002', '-c', '400', '-W', '0.1', '10.16.7.7']);
    const ended = new Promise((resolve) => ping.once('exit', resolve));
    await until('packets flow', () => told().length > 20);
    await driver.apply({ ...scene, overlay: { ...scene.overlay, identity: 77001 } }, { overlay: true });
    await ended;
    await until('all 400 packets arrived', () => told().length >= 400);
    const numbers = told().map(({ vni }) => vni);
    const turn = numbers.indexOf(77001);
    assert.ok(turn > 0, 'the change came in the middle');
    assert.deepEqual(new Set(numbers.slice(0, turn)), new Set([59102]));
    assert.deepEqual(new Set(numbers.slice(turn)), new Set([77001]));
    assert.deepEqual(
      told().map(({ sequence }) => sequence),
      Array.from({ length: 400 }, (_, index) => index + 1),
    );
  } finally {
    await lab.close();
  }
});
