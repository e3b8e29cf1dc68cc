import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { type Namespace, until } from '../../lab/namespace.ts';
import { Place } from '../../lab/place.ts';
import { type DatapathName, Driver } from './driver.ts';
import { sctpInit, vxlanFrame } from './frames.ts';
import { OPEN, type PolicySpec, type Spec } from './spec.ts';
import { M, P, type Wire, wire } from './wire.ts';

const PEER = 70_000;
const hosts = { [P.v4]: PEER, [P.v6]: PEER };
const allow = (...rows: string[]): PolicySpec => ({ of: { [PEER]: rows } });
const NOTHING: PolicySpec = { others: ['deny any'] };

/** Packets of a counter in a table of the test's own. */
export function counter(namespace: Namespace, table: string, name: string): number {
  return Number(/packets (\d+)/.exec(namespace.run('nft', 'list', 'counter', 'inet', table, name))?.[1]);
}

export function feedNft(namespace: Namespace, text: string): void {
  namespace.feed(text, 'nft', '-f', '-');
}

/** Sends one packet made by hand. `to` is an address of socat. */
function send(namespace: Namespace, to: string, packet: Buffer): void {
  namespace.feed(packet as never, 'socat', '-u', '-', to);
}

async function denied(driver: Driver): Promise<number> {
  return (await driver.status()).denied.ingress.packets;
}

/** What always passes, and what is inside of the machine: the same for every data path. */
export function borderSuite(name: DatapathName): void {
  let lab: Wire;
  let driver: Driver;
  before(async () => {
    lab = await wire('border', { tcp: [80, 81], udp: [80] });
    driver = await Driver.start(name, lab.machine.namespace);
  });
  after(async () => {
    await driver?.close();
    await lab?.close();
  });

  test('an ICMP error about an allowed connection passes, one about nothing does not', async () => {
    const { namespace } = lab.machine;
    feedNft(
      namespace,
      `table inet see { counter unreachable { }; counter other { }
        chain x { type filter hook input priority 0; icmp type destination-unreachable counter name unreachable; icmpv6 type destination-unreachable counter name unreachable; icmp type echo-reply counter name other; }; }`,
    );
    await driver.apply({ hosts, ingress: NOTHING, egress: allow('allow udp') });
    for (const to of [P.v4, P.v6]) {
      assert.equal(await lab.machine.probe({ protocol: 'udp', to, port: 999, timeoutMs: 3000 }), 'refused');
    }
    assert.ok(counter(namespace, 'see', 'unreachable') >= 2);
    // Port unreachable, quoting a datagram that was never sent; and an answer to an echo that nobody asked for.
    const quoted = Buffer.from('45000020000000004011000000000000000000000035003500080000', 'hex');
    const before = [counter(namespace, 'see', 'unreachable'), counter(namespace, 'see', 'other')];
    const start = await denied(driver);
    send(lab.peer.namespace, `IP4-SENDTO:${M.v4}:1`, Buffer.concat([Buffer.from('0303fcfc00000000', 'hex'), quoted]));
    send(lab.peer.namespace, `IP4-SENDTO:${M.v4}:1`, Buffer.from('0000ffff00000000', 'hex'));
    await until('both are denied', async () => (await denied(driver)) >= start + 2);
    assert.deepEqual([counter(namespace, 'see', 'unreachable'), counter(namespace, 'see', 'other')], before);
    namespace.run('nft', 'delete', 'table', 'inet', 'see');
  });

  test('neighbours are found and too large packets are reported whatever the policy says', async () => {
    const { namespace } = lab.machine;
    await driver.apply({ hosts, ingress: NOTHING, egress: NOTHING });
    feedNft(
      namespace,
      `table inet see { counter large { }
        chain x { type filter hook input priority 0; icmp type destination-unreachable icmp code 4 counter name large; icmpv6 type packet-too-big counter name large; }; }`,
    );
    namespace.run('ip', 'neigh', 'flush', 'dev', 'eth0');
    lab.peer.namespace.run('ip', 'neigh', 'flush', 'dev', 'eth0');
    await lab.peer.probe({ protocol: 'icmp', to: M.v6, port: 0, timeoutMs: 300 });
    await until('the peer has found its neighbour', () =>
      / lladdr /.test(lab.peer.namespace.run('ip', '-6', 'neigh', 'show', M.v6)),
    );
    const quoted = Buffer.from('45000020000000004011000000000000000000000035003500080000', 'hex');
    send(lab.peer.namespace, `IP4-SENDTO:${M.v4}:1`, Buffer.concat([Buffer.from('0304f7d7000005dc', 'hex'), quoted]));
    send(
      lab.peer.namespace,
      `IP6-SENDTO:[${M.v6}]:58`,
      Buffer.concat([Buffer.from('02000000000005dc', 'hex'), Buffer.alloc(48, 0x60)]),
    );
    await until('both arrive', () => counter(namespace, 'see', 'large') === 2);
    namespace.run('nft', 'delete', 'table', 'inet', 'see');
  });

  test('what refuses a first packet leaves whatever the policy says', async () => {
    const { namespace } = lab.machine;
    await driver.apply({ hosts, ingress: allow('allow tcp/90', 'allow udp/90'), egress: NOTHING });
    // It is part of a connection that is not confirmed, and never will be.
    feedNft(
      namespace,
      `table inet refuse { chain x { type filter hook input priority 0; tcp dport 90 reject with tcp reset; udp dport 90 reject; }; }`,
    );
    for (const to of [M.v4, M.v6])
      for (const protocol of ['tcp', 'udp'] as const)
        assert.equal(await lab.peer.probe({ protocol, to, port: 90, timeoutMs: 3000 }), 'refused', `${protocol} ${to}`);
    namespace.run('nft', 'delete', 'table', 'inet', 'refuse');
  });

  test('DHCP passes, and nothing else beside it', async () => {
    const { namespace } = lab.machine;
    await driver.apply({ hosts, ingress: NOTHING, egress: NOTHING });
    const see = (text: string): void =>
      feedNft(
        namespace,
        `table inet see { counter yes { }; counter no { }
          chain x { type filter hook ${text} udp sport 67 udp dport 68 counter name yes; udp sport 547 udp dport 546 counter name yes; udp sport 68 udp dport 67 counter name yes; udp dport { 69, 68 } udp sport 1067 counter name no; }; }`,
      );
    see('input priority 0;');
    const peer = lab.peer.namespace;
    send(peer, `UDP4-SENDTO:${M.v4}:68,sourceport=67`, Buffer.from('offer'));
    send(peer, `UDP6-SENDTO:[${M.v6}]:546,sourceport=547`, Buffer.from('offer'));
    send(peer, `UDP4-SENDTO:${M.v4}:68,sourceport=1067`, Buffer.from('offer'));
    await until('offers arrive', () => counter(namespace, 'see', 'yes') === 2);
    assert.equal(counter(namespace, 'see', 'no'), 0);
    namespace.run('nft', 'delete', 'table', 'inet', 'see');
    see('postrouting priority 320;');
    send(namespace, `UDP4-SENDTO:${P.v4}:67,sourceport=68`, Buffer.from('discover'));
    await until('a request leaves', () => counter(namespace, 'see', 'yes') === 1);
    namespace.run('nft', 'delete', 'table', 'inet', 'see');
  });

  test('SCTP is judged by its ports', async () => {
    await driver.apply({
      hosts,
      ingress: allow('allow sctp/5000', 'deny sctp/5001', 'deny sctp/6000-6010'),
      egress: {},
    });
    for (const port of [5000, 5001, 6005]) send(lab.peer.namespace, `IP4-SENDTO:${M.v4}:132`, sctpInit(40_000, port));
    await until('each row has counted its packet', async () => {
      const rows = (await driver.policy()).filter(({ protocol }) => protocol === 132);
      return rows.length === 3 && rows.every(({ packets }) => packets === 1);
    });
  });

  test('traffic on the loopback interface and to own addresses is not judged', async () => {
    await driver.apply({ hosts, ingress: NOTHING, egress: NOTHING });
    for (const to of ['127.0.0.1', '::1', M.v4, M.v6]) {
      assert.equal(await lab.machine.probe({ protocol: 'tcp', to, port: 80, timeoutMs: 3000 }), 'pass', to);
    }
  });
}

/** Containers behind a bridge of the machine. */
export function containerSuite(name: DatapathName): void {
  let lab: Wire;
  let container: Place;
  let driver: Driver;
  const BRIDGE = '172.31.0.1';
  const INSIDE = '172.31.0.2';
  before(async () => {
    lab = await wire('bridge', { tcp: [80, 81, 8080], udp: [80] });
    container = new Place('bridge-c');
    const { namespace } = lab.machine;
    namespace.run('ip', 'link', 'add', 'br0', 'type', 'bridge');
    namespace.run('ip', 'address', 'add', `${BRIDGE}/24`, 'dev', 'br0');
    namespace.run('ip', 'link', 'set', 'br0', 'up');
    namespace.connect(container.namespace, { device: 'veth0', peerDevice: 'eth0', peerAddresses: [`${INSIDE}/24`] });
    namespace.run('ip', 'link', 'set', 'veth0', 'master', 'br0');
    container.namespace.run('ip', 'route', 'add', 'default', 'via', BRIDGE);
    namespace.run('sysctl', '-qw', 'net.ipv4.ip_forward=1');
    // As a container engine does it.
    feedNft(
      namespace,
      `table ip engine {
        chain in { type nat hook prerouting priority dstnat; iifname != "br0" tcp dport { 8080, 8081 } dnat to ${INSIDE}:80; }
        chain out { type nat hook postrouting priority srcnat; ip saddr 172.31.0.0/24 oifname != "br0" masquerade; }
      }`,
    );
    await container.listen({ tcp: [80] });
    driver = await Driver.start(name, namespace);
  });
  after(async () => {
    await driver?.close();
    await container?.close();
    await lab?.close();
  });

  test('a published port is judged as traffic of the machine, by the port that peers see', async () => {
    await driver.apply({ hosts, ingress: allow('allow tcp/8080'), egress: OPEN });
    assert.equal(await lab.peer.probe({ protocol: 'tcp', to: M.v4, port: 8080, timeoutMs: 3000 }), 'pass');
    assert.equal(await lab.peer.probe({ protocol: 'tcp', to: M.v4, port: 8081, timeoutMs: 250 }), 'blocked');
    const connection = await lab.peer.open(M.v4, 8080);
    await driver.apply({ hosts, ingress: allow('allow tcp/8080', 'allow udp'), egress: {} });
    for (let look = 0; look < 3; look++) assert.equal(await connection.check(2000), 'pass');
    await driver.apply({ hosts, ingress: allow('allow tcp/8081', 'allow tcp/80'), egress: OPEN });
    await until('it is cut', async () => (await connection.check(400)) === 'blocked', 15_000);
    await connection.close();
  });

  test('what a container sends through an external device is judged as sent by the machine', async () => {
    await driver.apply({ hosts, ingress: {}, egress: allow('allow tcp/80') });
    assert.equal(await container.probe({ protocol: 'tcp', to: P.v4, port: 80, timeoutMs: 3000 }), 'pass');
    assert.equal(await container.probe({ protocol: 'tcp', to: P.v4, port: 81, timeoutMs: 250 }), 'blocked');
    assert.equal(await container.probe({ protocol: 'udp', to: P.v4, port: 80, timeoutMs: 250 }), 'blocked');
    const connection = await container.open(P.v4, 80);
    await driver.apply({ hosts, ingress: {}, egress: {} });
    await until('it is cut', async () => (await connection.check(400)) === 'blocked', 15_000);
    await connection.close();
  });

  test('traffic between the machine and its own bridges is not judged', async () => {
    await driver.apply({ hosts, ingress: NOTHING, egress: NOTHING });
    assert.equal(await lab.machine.probe({ protocol: 'tcp', to: INSIDE, port: 80, timeoutMs: 3000 }), 'pass');
    assert.equal(await container.probe({ protocol: 'tcp', to: BRIDGE, port: 80, timeoutMs: 3000 }), 'pass');
    assert.equal(await container.probe({ protocol: 'icmp', to: BRIDGE, port: 0, timeoutMs: 3000 }), 'pass');
  });
}

/** Marks of packets belong to others. */
export function markSuite(name: DatapathName): void {
  test('the mark that a packet comes with is the mark that it leaves with', async (t) => {
    const lab = await wire('mark', { tcp: [80], udp: [80] });
    t.after(() => lab.close());
    const { namespace } = lab.machine;
    // Set before us when it enters; set on output when it leaves. Seen right behind us.
    feedNft(
      namespace,
      `table inet marks {
        counter in_right { }; counter in_wrong { }; counter in_none { }; counter out_right { }; counter out_wrong { }; counter out_none { }
        chain a { type filter hook prerouting priority -300; th dport 80 numgen inc mod 3 vmap { 0 : goto m1, 1 : goto m2 }; }
        chain m1 { meta mark set 0x4000; }
        chain m2 { meta mark set 0xabc80000; }
        chain b { type filter hook prerouting priority -159; th dport 80 meta mark { 0x4000, 0xabc80000 } counter name in_right; th dport 80 meta mark 0 counter name in_none; th dport 80 meta mark != { 0, 0x4000, 0xabc80000 } counter name in_wrong; }
        chain c { type route hook output priority mangle; th dport 80 numgen inc mod 2 vmap { 0 : goto m3 }; }
        chain m3 { meta mark set 0x80000; }
        chain d { type filter hook postrouting priority 311; th dport 80 meta mark 0x80000 counter name out_right; th dport 80 meta mark 0 counter name out_none; th dport 80 meta mark != { 0, 0x80000 } counter name out_wrong; }
      }`,
    );
    // Routing by mark keeps working: without the mark there is no way back out.
    namespace.run('ip', 'rule', 'add', 'fwmark', '0x80000/0xff0000', 'lookup', '100');
    namespace.run('ip', 'route', 'add', '10.77.0.0/24', 'dev', 'eth0', 'table', '100');
    const driver = await Driver.start(name, namespace);
    t.after(() => driver.close());
    await driver.apply({
      hosts,
      ingress: allow('allow tcp/80', 'allow udp/80'),
      egress: allow('allow tcp/80', 'allow udp/80'),
    });
    const probes = Array.from({ length: 120 }, (_, i) =>
      (i % 2 === 0 ? lab.peer : lab.machine).probe({
        protocol: i % 4 < 2 ? 'tcp' : 'udp',
        to: i % 2 === 0 ? (i % 3 === 0 ? M.v6 : M.v4) : i % 3 === 0 ? P.v6 : P.v4,
        port: 80,
        timeoutMs: 5000,
      }),
    );
    assert.deepEqual(new Set(await Promise.all(probes)), new Set(['pass']));
    const read = (which: string): number => counter(namespace, 'marks', which);
    assert.deepEqual([read('in_wrong'), read('out_wrong')], [0, 0]);
    // Two of three packets came with a mark, one of two left with one.
    const near = (part: number, of: number, share: number): boolean => Math.abs(part - of * share) <= 2;
    const [inRight, inNone, outRight, outNone] = ['in_right', 'in_none', 'out_right', 'out_none'].map(read) as [
      number,
      number,
      number,
      number,
    ];
    assert.ok(near(inRight, inRight + inNone, 2 / 3), `${inRight} of ${inRight + inNone}`);
    assert.ok(near(outRight, outRight + outNone, 1 / 2), `${outRight} of ${outRight + outNone}`);
  });
}

/** The overlay: outer packets of known nodes alone, and the identity that they bring. */
export function overlaySuite(name: DatapathName): void {
  const DEVICE = 'mesh_vxlan';
  const OWN = { v4: '10.244.1.1', v6: 'fd44:1::1' };
  const POD = { v4: '10.244.2.2', v6: 'fd44:2::2' };
  let lab: Wire;
  let driver: Driver;
  const overlay = { device: DEVICE, identity: 80_000 };
  const spec = (more: Spec): Spec => ({ nodes: [P.v4, P.v6], overlay, egress: OPEN, ...more });

  const device = (
    namespace: Namespace,
    ends: { own: typeof OWN; far: typeof OWN; node: string; self: string; identity: number },
  ): void => {
    namespace.run('ip', 'link', 'add', DEVICE, 'type', 'vxlan', 'external', 'dstport', '8472', 'nolearning');
    namespace.run('ip', 'link', 'set', DEVICE, 'arp', 'off', 'mtu', '1400', 'up');
    namespace.run('ip', 'address', 'add', `${ends.own.v4}/32`, 'dev', DEVICE);
    namespace.run('ip', 'address', 'add', `${ends.own.v6}/128`, 'dev', DEVICE, 'nodad');
    const encap = ['encap', 'ip', 'id', String(ends.identity), 'dst', ends.node, 'src', ends.self, 'dev', DEVICE];
    namespace.run('ip', 'route', 'replace', `${ends.far.v4}/32`, ...encap, 'src', ends.own.v4);
    namespace.run('ip', '-6', 'route', 'replace', `${ends.far.v6}/128`, ...encap, 'src', ends.own.v6);
  };
  const speakAs = (identity: number): void => {
    for (const [family, own, far] of [
      ['-4', POD.v4, OWN.v4],
      ['-6', POD.v6, OWN.v6],
    ] as const) {
      lab.peer.namespace.run(
        'ip',
        family,
        'route',
        'replace',
        far,
        'encap',
        'ip',
        'id',
        String(identity),
        'dst',
        M.v4,
        'src',
        P.v4,
        'dev',
        DEVICE,
        'src',
        own,
      );
    }
  };

  before(async () => {
    lab = await wire('overlay', { tcp: [80, 81], udp: [80] });
    device(lab.machine.namespace, { own: OWN, far: POD, node: P.v4, self: M.v4, identity: 80_000 });
    device(lab.peer.namespace, { own: POD, far: OWN, node: M.v4, self: P.v4, identity: PEER });
    feedNft(
      lab.peer.namespace,
      `table netdev far { chain a { type filter hook ingress device "${DEVICE}" priority 0; meta pkttype set host; }; }`,
    );
    driver = await Driver.start(name, lab.machine.namespace);
  });
  after(async () => {
    await driver?.close();
    await lab?.close();
  });

  for (const family of ['v4', 'v6'] as const) {
    const enter = (port: number, timeoutMs: number) =>
      lab.peer.probe({ protocol: 'tcp', to: OWN[family], port, timeoutMs });

    test(`${family}: the identity that a known node brings is believed, whatever the inner address`, async () => {
      speakAs(PEER);
      await driver.apply(
        spec({ hosts: { [POD[family]]: 555 }, ingress: { of: { [PEER]: ['allow tcp/80'], 555: ['allow tcp/81'] } } }),
      );
      assert.deepEqual(await Promise.all([enter(80, 3000), enter(81, 250)]), ['pass', 'blocked']);
    });

    test(`${family}: a reserved identity is not believed: the inner address counts`, async () => {
      await driver.apply(
        spec({
          hosts: { [POD[family]]: PEER },
          ingress: { of: { [PEER]: ['allow tcp/80'], 1: ['allow any'], 5: ['allow any'], 2: ['allow any'] } },
        }),
      );
      for (const reserved of [1, 2, 5, 255]) {
        speakAs(reserved);
        assert.deepEqual(await Promise.all([enter(80, 3000), enter(81, 250)]), ['pass', 'blocked'], `${reserved}`);
      }
      speakAs(PEER);
    });

    test(`${family}: what leaves through the overlay is judged, and answered`, async () => {
      const to = POD[family];
      await driver.apply(spec({ hosts: { [to]: PEER }, ingress: {}, egress: { of: { [PEER]: ['allow tcp/80'] } } }));
      assert.equal(await lab.machine.probe({ protocol: 'tcp', to, port: 80, timeoutMs: 3000 }), 'pass');
      assert.equal(await lab.machine.probe({ protocol: 'tcp', to, port: 81, timeoutMs: 250 }), 'blocked');
    });
  }

  test('a node that is not known brings nothing', async () => {
    await driver.apply(spec({ nodes: ['192.0.2.9'], ingress: { others: ['allow any'] } }));
    assert.equal(await lab.peer.probe({ protocol: 'tcp', to: OWN.v4, port: 80, timeoutMs: 250 }), 'blocked');
    assert.equal(await lab.peer.probe({ protocol: 'tcp', to: M.v4, port: 80, timeoutMs: 3000 }), 'pass');
  });

  test('a connection through the overlay is cut when its policy is withdrawn', async () => {
    await driver.apply(spec({ hosts: { [POD.v4]: PEER }, ingress: allow('allow tcp/80') }));
    const connection = await lab.peer.open(OWN.v4, 80);
    await driver.apply(spec({ hosts: { [POD.v4]: PEER }, ingress: allow('allow tcp/81') }));
    await until('it is cut', async () => (await connection.check(400)) === 'blocked', 15_000);
    await driver.apply(spec({ hosts: { [POD.v4]: PEER }, ingress: allow('allow tcp/80') }));
    await until('it lives again', async () => (await connection.check(400)) === 'pass', 15_000);
    await connection.close();
  });

  test('outer packets are not tracked, and routing never sees the identity as a mark', async () => {
    const { namespace } = lab.machine;
    feedNft(
      namespace,
      'table inet see { counter tracked { }; counter marked { }; chain a { type filter hook input priority 300; udp dport 8472 ct state != untracked counter name tracked; udp dport 8472 meta mark != 0 counter name marked; }; chain b { type filter hook postrouting priority 320; udp dport 8472 ct state != untracked counter name tracked; }; chain c { type filter hook prerouting priority 0; iifname "mesh_vxlan" meta mark != 0 counter name marked; }; }',
    );
    await driver.apply(spec({ hosts: { [POD.v4]: PEER }, ingress: allow('allow any') }));
    assert.equal(await lab.peer.probe({ protocol: 'tcp', to: OWN.v4, port: 80, timeoutMs: 3000 }), 'pass');
    assert.equal(counter(namespace, 'see', 'marked'), 0);
    // Without nftables of ours it is for others to say what is tracked.
    if (name === 'nftables') assert.equal(counter(namespace, 'see', 'tracked'), 0);
    namespace.run('nft', 'delete', 'table', 'inet', 'see');
  });

  test('nobody on the machine can speak for others by writing outer packets', async () => {
    const { namespace } = lab.machine;
    await driver.apply(spec({ hosts: { [POD.v4]: PEER }, ingress: { others: ['allow any'] } }));
    const local = new Place('forger');
    namespace.connect(local.namespace, {
      device: 'veth9',
      peerDevice: 'eth0',
      addresses: ['172.30.0.1/24'],
      peerAddresses: ['172.30.0.2/24'],
    });
    local.namespace.run('ip', 'route', 'add', 'default', 'via', '172.30.0.1');
    namespace.run('sysctl', '-qw', 'net.ipv4.ip_forward=1');
    const far = lab.peer.namespace;
    feedNft(
      namespace,
      'table inet see { counter inner { }; chain a { type filter hook input priority 0; iifname "mesh_vxlan" udp dport 4242 counter name inner; }; }',
    );
    feedNft(
      far,
      'table inet see { counter outer { }; chain a { type filter hook prerouting priority 0; ip saddr 172.30.0.2 counter name outer; }; }',
    );
    const frame = vxlanFrame({ identity: PEER, from: POD.v4, to: OWN.v4, port: 4242 });
    // The true node, so that the test knows how success looks.
    send(lab.peer.namespace, `UDP4-SENDTO:${M.v4}:8472`, frame);
    await until('the frame of a known node arrives', () => counter(namespace, 'see', 'inner') === 1);
    send(namespace, 'UDP4-SENDTO:127.0.0.1:8472', frame);
    send(namespace, `UDP4-SENDTO:${M.v4}:8472`, frame);
    send(local.namespace, 'UDP4-SENDTO:172.30.0.1:8472', frame);
    send(local.namespace, `UDP4-SENDTO:${P.v4}:8472`, frame);
    // Under the address of the node itself, which the machine would take from anywhere.
    for (const device of ['all', 'veth9']) namespace.run('sysctl', '-qw', `net.ipv4.conf.${device}.rp_filter=0`);
    local.namespace.run('ip', 'address', 'add', `${P.v4}/32`, 'dev', 'eth0');
    send(local.namespace, `UDP4-SENDTO:172.30.0.1:8472,bind=${P.v4}`, frame);
    local.namespace.run('ip', 'address', 'delete', `${P.v4}/32`, 'dev', 'eth0');
    assert.equal(await lab.peer.probe({ protocol: 'tcp', to: OWN.v4, port: 80, timeoutMs: 3000 }), 'pass');
    assert.equal(counter(namespace, 'see', 'inner'), 1);
    // Another port shows that such packets would leave.
    send(local.namespace, `UDP4-SENDTO:${P.v4}:8473`, frame);
    await until('a packet of the container arrives', () => counter(far, 'see', 'outer') > 0);
    assert.equal(counter(far, 'see', 'outer'), 1);
    namespace.run('nft', 'delete', 'table', 'inet', 'see');
    far.run('nft', 'delete', 'table', 'inet', 'see');
    await local.close();
  });

  test('an overlay device that is made anew carries traffic again', async () => {
    await driver.apply(spec({ hosts: { [POD.v4]: PEER }, ingress: allow('allow tcp/80') }));
    lab.machine.namespace.run('ip', 'link', 'delete', DEVICE);
    device(lab.machine.namespace, { own: OWN, far: POD, node: P.v4, self: M.v4, identity: 80_000 });
    await until(
      'traffic flows again',
      async () => (await lab.peer.probe({ protocol: 'tcp', to: OWN.v4, port: 80 })) === 'pass',
    );
  });
}
