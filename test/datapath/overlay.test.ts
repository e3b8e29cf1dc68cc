import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseAddress, parseIpv4 } from '../../src/core/ip.ts';
import { TokenBucket } from '../../src/core/token-bucket.ts';
import { metricOf } from '../../src/datapath/overlay/routes.ts';
import { WorkerError } from '../lab/json-worker.ts';
import { until } from '../lab/namespace.ts';
import type { OverlayDriver } from './overlay-driver.ts';
import { OverlayLab } from './overlay-lab.ts';
import type { OverlayScene } from './overlay-state.ts';

async function withLab(run: (lab: OverlayLab) => Promise<void>): Promise<void> {
  const lab = new OverlayLab();
  try {
    await run(lab);
  } finally {
    await lab.close();
  }
}

function scene(lab: OverlayLab): OverlayScene {
  return lab.scene({
    overlay: { source4: '192.0.2.1', source6: '2001:db8::1', ownAddresses: ['10.99.0.1/32', 'fd00:99::1/128'] },
    hosts: [
      ['10.1.0.5', '192.0.2.2'],
      ['10.1.0.6', '2001:db8::2'],
      ['fd00:1::5', '192.0.2.2'],
    ],
    prefixes: [
      ['10.2.0.0/24', '192.0.2.2'],
      ['fd00:2::/64', '2001:db8::2'],
    ],
  });
}

const targets = (lab: OverlayLab): string[] => lab.routes().map((line) => line.split(' ')[0] as string);

function rejects(code: string, message: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof WorkerError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  };
}

/** What the agent does: it applies everything whenever it is told of a foreign change. */
async function heal(driver: OverlayDriver, drift: RegExp): Promise<void> {
  await until(`drift ${drift}`, () => driver.drifts.some((what) => drift.test(what)));
  await until('nothing more is found wrong', async () => {
    if ((await driver.status()).applied) return true;
    await driver.apply();
    return false;
  });
}

test('device, own addresses and routes are there as desired', () =>
  withLab(async (lab) => {
    const driver = await lab.driver();
    await driver.prepare(scene(lab));
    assert.deepEqual(lab.routes(), [], 'no route before the policy knows the device');
    const device = lab.a.run('ip', '-d', 'link', 'show', 'mesh_vxlan');
    for (const fact of ['NOARP,UP', 'external', 'dstport 8472', 'nolearning', 'addrgenmode none']) {
      assert.ok(device.includes(fact), `${fact} in ${device}`);
    }
    await driver.apply();
    assert.deepEqual(targets(lab), ['10.1.0.5', '10.1.0.6', '10.2.0.0/24', 'fd00:1::5', 'fd00:2::/64']);
    assert.match(lab.routes()[0] ?? '', /encap ip id 59102 src 192\.0\.2\.1 dst 192\.0\.2\.2 .* src 192\.0\.2\.1/);
    assert.match(lab.routes()[1] ?? '', /encap ip6 id 59102 src 2001:db8::1 dst 2001:db8::2 .*csum/);
    const addresses = lab.a.run('ip', '-o', 'address', 'show', 'mesh_vxlan');
    assert.match(addresses, /10\.99\.0\.1\/32/);
    assert.match(addresses, /fd00:99::1\/128/);
    assert.ok(!addresses.includes('fe80'), 'no link-local address');
    assert.equal(lab.a.run('sysctl', '-n', 'net.ipv4.conf.mesh_vxlan.rp_filter').trim(), '2');
    assert.equal(lab.a.run('sysctl', '-n', 'net.ipv6.conf.mesh_vxlan.accept_ra').trim(), '0');
    assert.equal(await driver.endpoint('10.2.0.9/32'), '192.0.2.2');
    assert.equal(await driver.endpoint('fd00:2::9/128'), '2001:db8::2');
    assert.equal(await driver.endpoint('10.3.0.0/16'), null);
    const status = await driver.status();
    assert.equal(status.applied, true);
    assert.deepEqual(status.routes, { hosts: 3, prefixes: 2 });
  }));

test('the MTU leaves room for the largest outer header that is in use', () =>
  withLab(async (lab) => {
    const driver = await lab.driver();
    const hosts = [['10.1.0.5', '192.0.2.2']] as const;
    await driver.apply(lab.scene({ hosts }));
    const seen = (value: string): void =>
      assert.equal(lab.a.run('ip', '-o', 'link', 'show', 'mesh_vxlan').match(/mtu (\d+)/)?.[1], value);
    seen('1450');
    await driver.apply(lab.scene({ hosts: [...hosts, ['10.1.0.6', '2001:db8::2']] }));
    seen('1430');
    await driver.apply(
      lab.scene({ overlay: { source4: '192.0.2.1', source6: '2001:db8::1', underlayMtu: 9000 }, hosts }),
    );
    seen('8930');
  }));

test('a restarted agent finds everything right and changes nothing', () =>
  withLab(async (lab) => {
    const wanted = scene(lab);
    const first = await lab.driver();
    await first.apply({ ...wanted, manyHosts: { first: '10.16.0.0', count: 300, vias: ['192.0.2.2', '192.0.2.3'] } });
    await first.stop();
    const before = lab.routes();
    let report: unknown;
    const changes = await lab.changesDuring(async () => {
      const second = await lab.driver();
      const { added, removed, refused } = await second.apply({
        ...wanted,
        manyHosts: { first: '10.16.0.0', count: 300, vias: ['192.0.2.2', '192.0.2.3'] },
      });
      report = { added, removed, refused };
      assert.equal((await second.status()).applied, true);
    });
    assert.deepEqual(report, { added: 0, removed: 0, refused: 0 });
    assert.deepEqual(changes, []);
    assert.deepEqual(lab.routes(), before);
  }));

test('a restarted agent changes only what is wrong', () =>
  withLab(async (lab) => {
    const first = await lab.driver();
    await first.apply(scene(lab));
    await first.stop();
    lab.a.run('ip', 'route', 'delete', '10.1.0.5', 'proto', '77');
    lab.a.run('ip', 'address', 'add', '10.99.0.2/32', 'dev', 'mesh_vxlan');
    lab.a.run('ip', 'address', 'delete', '10.99.0.1/32', 'dev', 'mesh_vxlan');
    const old = '10.77.0.0/16 encap ip id 5 dst 192.0.2.9 dev mesh_vxlan proto 77';
    lab.a.run('ip', 'route', 'add', ...old.split(' '));
    const second = await lab.driver();
    const { added, removed } = await second.apply(scene(lab));
    assert.deepEqual({ added, removed }, { added: 1, removed: 1 });
    assert.deepEqual(targets(lab), ['10.1.0.5', '10.1.0.6', '10.2.0.0/24', 'fd00:1::5', 'fd00:2::/64']);
    const addresses = lab.a.run('ip', '-o', 'address', 'show', 'mesh_vxlan');
    assert.match(addresses, /10\.99\.0\.1\/32/);
    assert.doesNotMatch(addresses, /10\.99\.0\.2\/32/);
  }));

test('one changed address touches one route', () =>
  withLab(async (lab) => {
    const driver = await lab.driver();
    await driver.apply(scene(lab));
    const changed = {
      ...scene(lab),
      hosts: [
        ['10.1.0.6', '192.0.2.2'],
        ['10.1.0.7', '192.0.2.2'],
        ['fd00:1::5', '192.0.2.2'],
        ['fd00:1::6', '192.0.2.2'],
      ] as const,
    };
    const words = ['10.1.0.5', '10.1.0.6', '10.1.0.7'].map(parseIpv4);
    const changes = await lab.changesDuring(() =>
      driver.apply(changed, { hosts4: words, hosts6: ['fd00:1::6', 'fd00:1::5'] }),
    );
    assert.deepEqual(targets(lab), ['10.1.0.6', '10.1.0.7', '10.2.0.0/24', 'fd00:1::5', 'fd00:1::6', 'fd00:2::/64']);
    assert.equal(await driver.endpoint('10.1.0.6/32'), '192.0.2.2');
    // One gone, one new in each family, and one led elsewhere, which is a new route and the end of the old one.
    assert.equal(changes.length, 5, changes.join('\n'));
  }));

test('single routes give way to a wider one with the same endpoint, and come back with its end', () =>
  withLab(async (lab) => {
    const driver = await lab.driver();
    const hosts = [
      ['10.5.0.1', '192.0.2.2'],
      ['10.5.0.2', '192.0.2.2'],
      ['10.6.0.1', '192.0.2.2'],
    ] as const;
    await driver.apply(lab.scene({ hosts }));
    await driver.apply(lab.scene({ hosts, prefixes: [['10.5.0.0/24', '192.0.2.2']] }), { overlay: true });
    assert.deepEqual(targets(lab), ['10.5.0.0/24', '10.6.0.1']);
    await driver.apply(lab.scene({ hosts }), { overlay: true });
    assert.deepEqual(targets(lab), ['10.5.0.1', '10.5.0.2', '10.6.0.1']);
  }));

test('no route leads a node or this machine into the overlay', () =>
  withLab(async (lab) => {
    const driver = await lab.driver();
    await driver.apply(
      lab.scene({
        hosts: [
          ['192.0.2.2', '192.0.2.2'],
          ['192.0.2.1', '192.0.2.2'],
          ['10.1.0.1', '192.0.2.1'],
          ['10.1.0.2', '198.51.100.7'],
          ['198.51.100.7', '192.0.2.2'],
          ['10.1.0.3', '192.0.2.2'],
        ],
        prefixes: [
          ['192.0.2.0/25', '192.0.2.9'],
          ['0.0.0.0/0', '192.0.2.9'],
          ['198.51.100.0/24', '192.0.2.9'],
          ['2001:db8::/32', '2001:db8::2'],
          ['10.8.0.0/16', '192.0.2.2'],
        ],
      }),
    );
    assert.deepEqual(targets(lab), ['10.1.0.2', '10.1.0.3', '10.8.0.0/16']);
    const { refused, error, applied } = await driver.status();
    assert.equal(refused.count, 8, refused.examples.join('\n'));
    assert.equal(applied, true, error?.message);
  }));

test('foreign routes and devices are never touched', () =>
  withLab(async (lab) => {
    for (const route of [
      '10.2.0.0/24 via 192.0.2.77 dev eth0',
      '10.1.0.5/32 via 192.0.2.77 dev eth0 proto 77',
      '10.70.0.0/16 via 192.0.2.77 dev eth0 proto 77',
      '10.71.0.0/16 dev eth0 table 77 proto 77',
    ]) {
      lab.a.run('ip', 'route', 'add', ...route.split(' '));
    }
    lab.a.run('ip', '-6', 'route', 'add', 'fd00:2::/64', 'via', '2001:db8::77', 'dev', 'eth0', 'proto', '77');
    lab.a.run('ip', 'link', 'add', 'vx1', 'type', 'vxlan', 'id', '7', 'dstport', '4789', 'dev', 'eth0');
    const foreign = (): string =>
      lab.a.run('sh', '-c', 'for f in -4 -6; do ip $f route show table all | grep -v mesh_vxlan; done') +
      lab.a.run('ip', '-d', '-o', 'link', 'show', 'vx1');
    const before = foreign();
    const driver = await lab.driver();
    await driver.apply(scene(lab));
    const status = await driver.status();
    assert.equal(status.applied, true);
    // They are preferred to ours, and that is told.
    assert.deepEqual([...status.shadowed.examples].sort(), ['10.1.0.5/32', '10.2.0.0/24', 'fd00:2::/64']);
    assert.equal(foreign(), before);
    lab.a.run('ip', 'route', 'delete', '10.2.0.0/24', 'via', '192.0.2.77');
    await until('one is told no more', async () => (await driver.status()).shadowed.count === 2);
    lab.a.run('ip', 'route', 'add', '10.2.0.0/24', 'via', '192.0.2.77', 'dev', 'eth0');
    await until('it is told again', async () => (await driver.status()).shadowed.count === 3);
    await driver.remove();
    assert.equal(foreign(), before);
    assert.equal(lab.a.try('ip', 'link', 'show', 'mesh_vxlan').code, 1);
  }));

test('a foreign device of our name is left alone, and the way out is told', () =>
  withLab(async (lab) => {
    lab.a.run('ip', 'link', 'add', 'mesh_vxlan', 'type', 'vxlan', 'id', '7', 'dstport', '8472', 'dev', 'eth0');
    const show = (): string => lab.a.run('ip', '-d', '-o', 'link', 'show', 'mesh_vxlan');
    const before = show();
    const driver = await lab.driver();
    await assert.rejects(driver.apply(scene(lab)), rejects('OVL-DEVICE', /network number of its own/));
    assert.equal(show(), before);
    assert.equal((await driver.status()).error?.code, 'OVL-DEVICE');
    await driver.remove();
    assert.equal(show(), before);
    lab.a.run('ip', 'link', 'delete', 'mesh_vxlan');
    await driver.apply();
    assert.equal((await driver.status()).applied, true);
  }));

test('a port that another device has is named with that device', () =>
  withLab(async (lab) => {
    lab.a.run('ip', 'link', 'add', 'other', 'type', 'vxlan', 'external', 'dstport', '8472');
    lab.a.run('ip', 'link', 'set', 'other', 'up');
    const driver = await lab.driver();
    await assert.rejects(driver.apply(scene(lab)), rejects('OVL-PORT', /device other has UDP port 8472/));
    assert.equal(lab.a.try('ip', 'link', 'show', 'other').code, 0);
  }));

test('a source address that the machine does not have is refused by name, and healed when it comes', () =>
  withLab(async (lab) => {
    const driver = await lab.driver();
    const wanted = lab.scene({ overlay: { source4: '192.0.2.50' }, hosts: [['10.1.0.5', '192.0.2.2']] });
    await assert.rejects(driver.apply(wanted), rejects('OVL-SOURCE', /192\.0\.2\.50/));
    lab.a.run('ip', 'address', 'add', '192.0.2.50/24', 'dev', 'eth0');
    await heal(driver, /192\.0\.2\.50 is there/);
    assert.deepEqual(targets(lab), ['10.1.0.5']);
  }));

test('what a foreign hand takes away is noticed and comes back', () =>
  withLab(async (lab) => {
    const driver = await lab.driver();
    await driver.apply(scene(lab));
    const before = lab.routes();
    const deeds: [RegExp, string[]][] = [
      [/device mesh_vxlan is gone|route .* was removed/, ['ip', 'link', 'delete', 'mesh_vxlan']],
      [/device mesh_vxlan is down|route .* was removed/, ['ip', 'link', 'set', 'mesh_vxlan', 'down']],
      [/route .* was removed/, ['ip', 'route', 'flush', 'proto', '77']],
      [/route .* was removed/, ['ip', '-6', 'route', 'flush', 'proto', '77']],
      [/device mesh_vxlan was changed/, ['ip', 'link', 'set', 'mesh_vxlan', 'mtu', '1400']],
      [/device mesh_vxlan was changed/, ['ip', 'link', 'set', 'mesh_vxlan', 'arp', 'on']],
      [/address 10\.99\.0\.1 was removed/, ['ip', 'address', 'delete', '10.99.0.1/32', 'dev', 'mesh_vxlan']],
      [/address fd00:99::1 was removed/, ['ip', 'address', 'delete', 'fd00:99::1/128', 'dev', 'mesh_vxlan']],
      [/address 10\.99\.0\.9 was added/, ['ip', 'address', 'add', '10.99.0.9/32', 'dev', 'mesh_vxlan']],
    ];
    for (const [index, [drift, [command = '', ...args]]] of deeds.entries()) {
      driver.drifts.length = 0;
      lab.a.run(command, ...args);
      await heal(driver, drift);
      assert.deepEqual(lab.routes(), before, args.join(' '));
      const status = await driver.status();
      assert.equal(status.applied, true, args.join(' '));
      assert.ok(status.healed > index);
      assert.match(lab.a.run('ip', '-o', 'address', 'show', 'mesh_vxlan'), /10\.99\.0\.1\/32.*fd00:99::1\/128/s);
    }
  }));

test('a fight over the routes is answered to the end, in a measured way', () =>
  withLab(async (lab) => {
    let now = 0;
    const bucket = new TokenBucket({ burst: 3, perSecond: 1, now: () => now });
    const takes = (): boolean[] => [0, 1, 2, 3].map(() => bucket.take());
    assert.deepEqual(takes(), [true, true, true, false]);
    now = 1500;
    assert.deepEqual(takes(), [true, false, false, false]);
    now = 1_000_000;
    assert.deepEqual(takes(), [true, true, true, false]);
    const driver = await lab.driver();
    await driver.apply(lab.scene({ hosts: [['10.1.0.5', '192.0.2.2']] }));
    while (driver.drifts.length < 23) {
      const told = driver.drifts.length;
      lab.a.run('ip', 'route', 'flush', 'proto', '77');
      await until('the change is told', () => driver.drifts.length > told);
      await driver.apply();
    }
    assert.deepEqual(targets(lab), ['10.1.0.5']);
    assert.equal((await driver.status()).drifted, 23);
  }));

test('own changes are no drift', () =>
  withLab(async (lab) => {
    const driver = await lab.driver();
    const many = { first: '10.16.0.0', count: 3000, vias: ['192.0.2.2', '192.0.2.3'] };
    await driver.apply({ ...scene(lab), manyHosts: many });
    await driver.apply({ ...scene(lab), manyHosts: many, overlay: { ...scene(lab).overlay, identity: 9 } });
    await driver.apply({ ...scene(lab), overlay: { source4: '192.0.2.1', source6: '2001:db8::1' } });
    // With the last own address of IPv4 the kernel drops the routes, without a word.
    assert.equal(lab.routes().length, 5);
    lab.a.run('ip', 'route', 'flush', 'proto', '77');
    await until('the first drift is the foreign one', () => driver.drifts.length > 0);
    assert.match(driver.drifts[0] ?? '', /route .* was removed/);
    assert.equal((await driver.status()).drifted, 1);
  }));

test('20,000 routes come and go in place, and no event of theirs is lost', () =>
  withLab(async (lab) => {
    const driver = await lab.driver();
    const vias = Array.from({ length: 200 }, (_, index) => `192.0.2.${index + 2}`);
    const many = lab.scene({ manyHosts: { first: '10.16.0.0', count: 20_000, vias } });
    const count = (text = 'dev'): number =>
      Number(lab.a.run('sh', '-c', `ip route show proto 77 | grep -c '${text}'`).trim());
    const loaded = await driver.apply(many);
    assert.equal(loaded.added, 20_000);
    assert.equal(count(), 20_000);
    assert.equal(await driver.endpoint('10.16.1.1/32'), vias[(256 + 1) % 200]);
    const changed = await driver.apply({ ...many, overlay: { ...many.overlay, identity: 31337 } }, { overlay: true });
    assert.equal(changed.added, 20_000);
    assert.equal(changed.removed, 0, 'every route was replaced in its place');
    assert.equal(count('id 31337'), 20_000);
    const gone = await driver.apply(lab.scene());
    assert.equal(gone.removed, 20_000);
    assert.deepEqual(lab.routes(), []);
    assert.deepEqual(driver.drifts, []);
  }));

test('a change that was cut off between two endpoints is brought to its end', () =>
  withLab(async (lab) => {
    const first = await lab.driver();
    await first.apply(lab.scene());
    await first.stop();
    const vias = ['192.0.2.2', '192.0.2.3', '192.0.2.4'];
    for (const via of vias) {
      const metric = metricOf(parseAddress(via) ?? assert.fail());
      for (const prefix of ['10.1.0.5/32', '10.2.0.0/24']) {
        const text = `${prefix} encap ip id 59102 src 192.0.2.1 dst ${via} dev mesh_vxlan src 192.0.2.1 metric ${metric} proto 77`;
        lab.a.run('ip', 'route', 'add', ...text.split(' '));
      }
    }
    const second = await lab.driver();
    const via = '192.0.2.3';
    const report = await second.apply(lab.scene({ hosts: [['10.1.0.5', via]], prefixes: [['10.2.0.0/24', via]] }));
    assert.equal(report.refused, 0);
    assert.deepEqual(targets(lab), ['10.1.0.5', '10.2.0.0/24']);
    assert.ok(lab.routes().every((line) => line.includes(`dst ${via} `)));
  }));

test('a route that is refused holds no other back, and is made when it can be', () =>
  withLab(async (lab) => {
    const metric = metricOf(parseAddress('192.0.2.2') ?? assert.fail());
    const inTheWay = ['10.1.0.5/32', 'via', '192.0.2.77', 'dev', 'eth0', 'metric', String(metric)];
    lab.a.run('ip', 'route', 'add', ...inTheWay);
    const driver = await lab.driver();
    const hosts = ['10.1.0.4', '10.1.0.5', '10.1.0.6'].map((host) => [host, '192.0.2.2'] as const);
    const report = await driver.apply(lab.scene({ hosts }));
    assert.deepEqual([report.added, report.refused], [2, 1]);
    assert.deepEqual(targets(lab), ['10.1.0.4', '10.1.0.6']);
    assert.match(lab.a.run('ip', 'route', 'show', '10.1.0.5'), /via 192\.0\.2\.77 dev eth0/);
    const { error, refused } = await driver.status();
    assert.equal(error?.code, 'OVL-ROUTE');
    assert.match(refused.examples[0] ?? '', /10\.1\.0\.5\/32 via 192\.0\.2\.2: .*EEXIST/);
    lab.a.run('ip', 'route', 'delete', ...inTheWay);
    const again = await driver.apply(undefined, {});
    assert.deepEqual([again.added, again.refused], [1, 0]);
    assert.equal((await driver.status()).applied, true);
  }));

test('an address that becomes a node loses its route, and a prefix of one address is a route like others', () =>
  withLab(async (lab) => {
    const driver = await lab.driver();
    const scene = lab.scene({
      hosts: [['10.1.0.5', '192.0.2.2']],
      prefixes: [
        ['10.1.0.6/32', '192.0.2.2'],
        ['10.1.0.7/32', '192.0.2.3'],
      ],
    });
    await driver.apply(scene);
    assert.deepEqual(targets(lab), ['10.1.0.5', '10.1.0.6', '10.1.0.7']);
    await driver.apply({ ...scene, nodes: ['192.0.2.2', '10.1.0.5'] }, { border: true });
    assert.deepEqual(targets(lab), ['10.1.0.6', '10.1.0.7']);
    await driver.apply({ ...scene, prefixes: [['10.1.0.7/32', '192.0.2.2']] }, { overlay: true });
    assert.deepEqual(targets(lab), ['10.1.0.5', '10.1.0.7'], 'and gets it back when it is a node no more');
    assert.equal(await driver.endpoint('10.1.0.7/32'), '192.0.2.2');
  }));

test('a device too small for IPv6 carries IPv4, and says why', () =>
  withLab(async (lab) => {
    const driver = await lab.driver();
    const overlay = { ...scene(lab).overlay, underlayMtu: 1300 };
    await driver.apply({ ...scene(lab), overlay, hosts: [['10.1.0.5', '192.0.2.2']] });
    assert.deepEqual(targets(lab), ['10.1.0.5', '10.2.0.0/24']);
    const { error } = await driver.status();
    assert.equal(error?.code, 'OVL-KERNEL');
    assert.match(error?.message ?? '', /MTU of 1250 is below 1280/);
    await driver.apply({ ...scene(lab), hosts: [['fd00:1::5', '192.0.2.2']] });
    assert.ok(targets(lab).includes('fd00:1::5'));
    assert.equal((await driver.status()).error, undefined);
  }));

test('native routing and leaving take device and routes away', () =>
  withLab(async (lab) => {
    const driver = await lab.driver();
    await driver.apply(scene(lab));
    await driver.apply({ nodes: [] });
    assert.equal(lab.a.try('ip', 'link', 'show', 'mesh_vxlan').code, 1);
    assert.deepEqual(lab.routes(), []);
    await driver.apply(scene(lab));
    assert.equal(lab.routes().length, 5);
    await driver.stop();
    const fresh = await lab.driver();
    await fresh.remove();
    assert.equal(lab.a.try('ip', 'link', 'show', 'mesh_vxlan').code, 1);
    assert.deepEqual(lab.routes(), []);
  }));

test('another port or name moves the device and leaves no old one', () =>
  withLab(async (lab) => {
    const driver = await lab.driver();
    await driver.apply(scene(lab));
    await driver.apply({ ...scene(lab), overlay: { ...scene(lab).overlay, port: 8473 } });
    assert.match(lab.a.run('ip', '-d', 'link', 'show', 'mesh_vxlan'), /dstport 8473/);
    assert.equal(lab.routes().length, 5);
    await driver.stop();
    const fresh = await lab.driver();
    await fresh.apply({ ...scene(lab), overlay: { ...scene(lab).overlay, device: 'mesh_other' } });
    assert.equal(lab.a.try('ip', 'link', 'show', 'mesh_vxlan').code, 1);
    assert.equal(lab.routes().length, 5);
  }));

test('IPv6 that is off by default is turned on for the overlay alone', () =>
  withLab(async (lab) => {
    lab.a.run('sysctl', '-qw', 'net.ipv6.conf.default.disable_ipv6=1');
    const driver = await lab.driver();
    await driver.apply(scene(lab));
    assert.equal(lab.a.run('sysctl', '-n', 'net.ipv6.conf.mesh_vxlan.disable_ipv6').trim(), '0');
    assert.equal(lab.a.run('sysctl', '-n', 'net.ipv6.conf.default.disable_ipv6').trim(), '1');
    assert.ok(targets(lab).includes('fd00:1::5'));
  }));
