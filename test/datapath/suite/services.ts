import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { BpfFileSystem } from '../../lab/bpf.ts';
import { until } from '../../lab/namespace.ts';
import { type Outcome, Place } from '../../lab/place.ts';
import { type DatapathName, Driver } from './driver.ts';
import { sctpInit } from './frames.ts';
import type { Spec } from './spec.ts';

const HOSTS = [11, 12, 13] as const;
const v4 = (host: number): string => `10.77.0.${host}`;
const v6 = (host: number): string => `fd77::${host}`;
const targets4 = HOSTS.map((host) => `${v4(host)} 8080`);
const targets6 = HOSTS.map((host) => `${v6(host)} 8080`);
const VIP = { v4: '10.96.0.1', v6: 'fd00:96::1' } as const;

const SERVICES: Exclude<Spec['services'], 'off' | undefined> = {
  '10.96.0.1 6 80': { targets: targets4 },
  'fd00:96::1 6 80': { targets: targets6 },
  '10.96.0.1 17 53': { targets: targets4 },
  'fd00:96::1 17 53': { targets: targets6 },
  '10.96.0.2 6 80': { targets: [] },
  '10.96.0.2 17 53': { targets: [] },
  'fd00:96::2 6 80': { targets: [] },
};

const M = { v4: '10.77.0.1', v6: 'fd77::1' } as const;
const R = { v4: '10.77.0.2', v6: 'fd77::2' } as const;

const COUNT = `table inet seen {
  counter four { }
  counter six { }
  counter associations { }
  chain enter {
    type filter hook input priority 0;
    meta l4proto 132 th dport 8080 counter name associations
    ct state new meta l4proto { 6, 17 } meta nfproto ipv4 counter name four
    ct state new meta l4proto { 6, 17 } meta nfproto ipv6 counter name six
  }
}`;

/** Services in the kernel, with real connections: a machine, and three backends on one wire. */
export function servicesSuite(name: DatapathName, options: { readonly container: boolean }): void {
  let fileSystem: BpfFileSystem;
  const start = (): Promise<Driver> =>
    Driver.start(name, machine.namespace, { env: { MESH_TEST_BPF: fileSystem.path } });
  let machine: Place;
  let router: Place;
  let container: Place | undefined;
  let backends: Map<number, Place>;
  let driver: Driver;

  before(async () => {
    router = new Place('services-r');
    router.namespace.run('ip', 'link', 'add', 'br0', 'type', 'bridge');
    router.namespace.run('ip', 'link', 'set', 'br0', 'up');
    router.namespace.run('ip', 'address', 'add', `${R.v4}/24`, 'dev', 'br0');
    router.namespace.run('ip', 'address', 'add', `${R.v6}/64`, 'dev', 'br0', 'nodad');
    machine = attach('m', 1);
    backends = new Map(HOSTS.map((host) => [host, attach(`b${host}`, host)]));
    machine.namespace.run('ip', 'route', 'add', '10.96.0.0/16', 'via', R.v4);
    machine.namespace.run('ip', '-6', 'route', 'add', 'fd00:96::/64', 'via', R.v6);
    for (const { namespace } of backends.values()) {
      namespace.feed(COUNT, 'nft', '-f', '-');
      namespace.run('ip', 'route', 'add', '172.17.0.0/16', 'via', M.v4);
    }
    await Promise.all([...backends.values()].map((place) => place.listen({ tcp: [8080], udp: [8080] })));
    if (options.container) {
      container = new Place('services-c');
      machine.namespace.connect(container.namespace, {
        device: 'bridge0',
        peerDevice: 'eth0',
        addresses: ['172.17.0.1/16'],
        peerAddresses: ['172.17.0.2/16'],
      });
      container.namespace.run('ip', 'route', 'add', 'default', 'via', '172.17.0.1');
      machine.namespace.run('sysctl', '-q', '-w', 'net.ipv4.ip_forward=1');
    }
    fileSystem = new BpfFileSystem();
    driver = await start();
    assert.equal((await driver.status()).balances, true);
  });
  after(async () => {
    await driver?.close();
    await Promise.all([container, machine, router, ...(backends?.values() ?? [])].map((place) => place?.close()));
    fileSystem?.close();
  });

  /** A place on the bridge of the router. */
  function attach(label: string, host: number): Place {
    const place = new Place(`services-${label}`);
    place.namespace.connect(router.namespace, {
      device: 'eth0',
      peerDevice: `port${host}`,
      addresses: [`${v4(host)}/24`, `${v6(host)}/64`],
    });
    router.namespace.run('ip', 'link', 'set', `port${host}`, 'master', 'br0');
    return place;
  }

  function forget(): void {
    for (const { namespace } of backends.values()) namespace.run('nft', 'reset', 'counters', 'table', 'inet', 'seen');
  }

  /** New connections that came to each backend since `forget`. */
  function counts(): Record<string, number> {
    const found: Record<string, number> = {};
    for (const [host, { namespace }] of backends) {
      const text = namespace.run('nft', 'list', 'counters', 'table', 'inet', 'seen');
      for (const [, name, count] of text.matchAll(/counter (four|six) \{\s*packets (\d+)/g))
        if (count !== '0') found[name === 'four' ? v4(host) : v6(host)] = Number(count);
    }
    return found;
  }

  async function connect(
    count: number,
    to: string,
    where: { from?: Place; protocol?: 'tcp' | 'udp'; port?: number } = {},
  ): Promise<Outcome[]> {
    const { from = machine, protocol = 'tcp', port = protocol === 'tcp' ? 80 : 53 } = where;
    const outcomes: Outcome[] = [];
    for (let left = count; left > 0; left -= 50)
      outcomes.push(
        ...(await Promise.all(
          Array.from({ length: Math.min(50, left) }, () => from.probe({ protocol, to, port, timeoutMs: 4000 })),
        )),
      );
    return outcomes;
  }

  const machines = (): Place[] => (container === undefined ? [machine] : [machine, container]);
  const all = (outcomes: readonly Outcome[]): string => [...new Set(outcomes)].join();

  for (const family of ['v4', 'v6'] as const) {
    for (const protocol of ['tcp', 'udp'] as const) {
      test(`connections spread evenly over the backends: ${protocol} over IP${family}`, async () => {
        await driver.apply({ services: SERVICES });
        forget();
        assert.equal(all(await connect(300, VIP[family], { protocol })), 'pass');
        const seen = Object.values(counts());
        assert.equal(seen.length, 3);
        // 100 each is expected, with a deviation of 8: five of them are 40.
        for (const count of seen) assert.ok(count >= 60 && count <= 140, JSON.stringify(counts()));
      });
    }
  }

  test('an SCTP association is led to one of the backends', async () => {
    await driver.apply({ services: { '10.96.0.1 132 7': { targets: targets4 } } });
    const arrived = (): number[] =>
      [...backends.values()].map(({ namespace }) =>
        Number(/packets (\d+)/.exec(namespace.run('nft', 'list', 'counter', 'inet', 'seen', 'associations'))?.[1]),
      );
    // The first packets may wait for a neighbour and be lost.
    for (let sent = 0; sent < 5 && arrived().every((count) => count === 0); sent++) {
      machine.namespace.feed(sctpInit(40_000, 7) as never, 'socat', '-u', '-', `IP4-SENDTO:${VIP.v4}:132`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    assert.equal(arrived().filter((count) => count > 0).length, 1);
  });

  test('weights decide how many each gets', async () => {
    await driver.apply({ services: { '10.96.0.1 6 80': { targets: [`${v4(11)} 8080 30`, `${v4(12)} 8080 10`] } } });
    forget();
    assert.equal(all(await connect(400, VIP.v4)), 'pass');
    const { [v4(11)]: heavy = 0, [v4(12)]: light = 0 } = counts();
    assert.equal(heavy + light, 400);
    // A quarter is 100, with a deviation of 9.
    assert.ok(light >= 55 && light <= 145, JSON.stringify(counts()));
    const [frontend] = await driver.services();
    assert.deepEqual(frontend?.targets.map(({ slots }) => slots).sort(), [1, 3]);
  });

  test('a frontend without backends is refused at once, and other ports of its address are not', async () => {
    await driver.apply({ services: SERVICES });
    const start = performance.now();
    const outcomes = await Promise.all([
      machine.probe({ protocol: 'tcp', to: '10.96.0.2', port: 80, timeoutMs: 4000 }),
      machine.probe({ protocol: 'tcp', to: 'fd00:96::2', port: 80, timeoutMs: 4000 }),
      machine.probe({ protocol: 'udp', to: '10.96.0.2', port: 53, timeoutMs: 4000 }),
    ]);
    assert.equal(all(outcomes), 'refused');
    assert.ok(performance.now() - start < 3000, 'none of them waited for its end');
  });

  test('an established connection stays with its backend when that leaves; new ones find the others', async () => {
    const key = '10.96.0.1 6 80';
    await driver.apply({ services: { [key]: { targets: [targets4[0] as string] } } });
    const connection = await machine.open(VIP.v4, 80);
    await driver.apply({ services: { [key]: { targets: targets4.slice(1) } } });
    assert.equal(await connection.check(), 'pass');
    forget();
    assert.equal(all(await connect(50, VIP.v4)), 'pass');
    assert.equal(counts()[v4(11)], undefined);
    await driver.apply({ services: {} });
    assert.equal(await connection.check(), 'pass', 'also without the service');
    await connection.close();
  });

  test('a UDP flow moves to another backend when its own leaves', async () => {
    const key = '10.96.0.1 17 53';
    await driver.apply({ services: { [key]: { targets: [targets4[0] as string] } } });
    forget();
    const flow = await machine.flow(VIP.v4, 53, { everyMs: 20 });
    await until('the flow is at the first backend', () => (counts()[v4(11)] ?? 0) > 0);
    await driver.apply({ services: { [key]: { targets: [targets4[1] as string] } } });
    await until('the flow is at the second backend', () => (counts()[v4(12)] ?? 0) > 0);
    const { sent, received } = await flow.stop();
    assert.equal(received, sent, 'and lost nothing, since the first one still answers');
  });

  test('a UDP flow that began before there was a backend finds it', async () => {
    const key = '10.96.0.1 17 53';
    await driver.apply({ services: {} });
    const flow = await machine.flow(VIP.v4, 53, { everyMs: 20 });
    await new Promise((resolve) => setTimeout(resolve, 200));
    forget();
    await driver.apply({ services: { [key]: { targets: [targets4[2] as string] } } });
    await until('the flow is at the backend', () => (counts()[v4(13)] ?? 0) > 0).catch(async (error: unknown) => {
      throw new Error(`${String(error)}\n${JSON.stringify([driver.events, await driver.services(), counts()])}`);
    });
    assert.ok((await flow.stop()).received > 0);
  });

  test('a sticky frontend keeps a client at one backend, also when others come and go', async () => {
    const key = '10.96.0.1 6 80';
    const apply = (targets: readonly string[]) => driver.apply({ services: { [key]: { sticky: true, targets } } });
    await apply(targets4);
    forget();
    await connect(40, VIP.v4);
    const [own = '', ...others] = Object.keys(counts());
    assert.deepEqual(others, []);
    const rest = targets4.filter((target) => !target.startsWith(`${own} `));
    await apply(targets4.filter((target) => target !== rest[0]));
    await connect(40, VIP.v4);
    await apply(targets4);
    await connect(40, VIP.v4);
    assert.deepEqual(counts(), { [own]: 120 });
    await apply(rest);
    forget();
    await connect(40, VIP.v4);
    assert.deepEqual(Object.values(counts()), [40], 'one of the others, and the same for all');
  });

  if (options.container) {
    test('containers behind the machine are led to backends, who comes from outside is not', async () => {
      await driver.apply({ services: SERVICES });
      forget();
      assert.equal(all(await connect(50, VIP.v4, { from: container as Place })), 'pass');
      assert.equal(
        Object.values(counts()).reduce((sum, count) => sum + count),
        50,
      );
      router.namespace.run('ip', 'route', 'add', '10.96.0.0/16', 'via', M.v4);
      const outcome = await router.probe({ protocol: 'tcp', to: VIP.v4, port: 80 });
      assert.notEqual(outcome, 'pass');
    });
  }

  test('policy judges the backend and its port, for the machine and its containers', async () => {
    const hosts = { [v4(11)]: 70_011, [v4(12)]: 70_012 };
    const policy = (rows: string[]): Spec => ({
      services: {
        '10.96.0.1 6 80': { targets: [`${v4(11)} 8080`] },
        '10.96.0.3 6 80': { targets: [`${v4(12)} 8080`] },
      },
      hosts,
      egress: { of: { 70011: rows } },
    });
    await driver.apply(policy(['allow tcp/8080']));
    for (const from of machines()) {
      assert.equal(await from.probe({ protocol: 'tcp', to: VIP.v4, port: 80, timeoutMs: 4000 }), 'pass');
      assert.equal(await from.probe({ protocol: 'tcp', to: '10.96.0.3', port: 80 }), 'blocked');
    }
    await driver.apply(policy(['allow tcp/80']));
    for (const from of machines()) assert.equal(await from.probe({ protocol: 'tcp', to: VIP.v4, port: 80 }), 'blocked');
  });

  test('the mark of a packet is what it was before', async () => {
    await driver.apply({ services: SERVICES });
    machine.namespace.feed(
      `table inet marks {
      counter kept { }
      counter other { }
      chain set_it { type filter hook output priority -150; tcp flags syn meta mark set 0x4000; }
      chain look_at_it {
        type filter hook postrouting priority 400;
        ip saddr ${M.v4} tcp flags syn / syn,ack meta mark 0x4000 counter name kept
        ip saddr ${M.v4} tcp flags syn / syn,ack meta mark != 0x4000 counter name other
      }
    }`,
      'nft',
      '-f',
      '-',
    );
    await connect(20, VIP.v4);
    await connect(20, v4(11), { port: 8080 });
    assert.equal(all(await connect(3, '10.96.0.2')), 'refused');
    const text = machine.namespace.run('nft', 'list', 'counters', 'table', 'inet', 'marks');
    machine.namespace.run('nft', 'delete', 'table', 'inet', 'marks');
    assert.deepEqual(
      [...text.matchAll(/counter (\w+) \{\s*packets (\d+)/g)].map(([, name, count]) => `${name} ${count}`),
      ['kept 40', 'other 0'],
    );
  });

  test('a change writes its own slots alone, and a new process nothing', async () => {
    const key = '10.96.0.1 6 80';
    const many = Object.fromEntries(
      Array.from({ length: 200 }, (_, n) => [`10.97.0.${n} 6 80`, { targets: targets4 }]),
    );
    const apply = (targets: readonly string[], by: 'everything' | 'changes' = 'changes') =>
      driver.apply({ services: { ...many, [key]: { targets } } }, by);
    await apply(targets4);
    const replaced = await apply([targets4[0], targets4[1], `${v4(14)} 8080`] as string[]);
    assert.deepEqual([replaced.added, replaced.removed], [1, 1]);
    // The last one takes the place of the one that left; the number of slots is another.
    const shorter = await apply([targets4[1], `${v4(14)} 8080`] as string[]);
    assert.deepEqual([shorter.added, shorter.removed], [2, 3]);
    await driver.close();
    driver = await start();
    const again = await apply([targets4[1], `${v4(14)} 8080`] as string[], 'everything');
    assert.deepEqual([again.added, again.removed], [0, 0]);
    const less = await driver.apply({ services: { [key]: { targets: targets4 } } }, 'everything');
    assert.ok(less.removed >= 200 * 4, `${less.removed} elements of 200 services`);
    assert.equal((await driver.services()).length, 1);
    await driver.close();
    driver = await start();
    await driver.apply({}, 'everything');
    assert.equal((await driver.services()).length, 1, 'who knows nothing of services leaves them in force');
    assert.equal(all(await connect(5, VIP.v4)), 'pass');
    await driver.apply({ services: 'off' });
    assert.deepEqual(await driver.services(), []);
    const hooks = (): boolean => machine.namespace.run('nft', 'list', 'chains', 'inet').includes('lb_');
    assert.ok(!hooks(), 'and no hook is left');
    await driver.apply({ services: {} });
    assert.ok(!hooks(), 'nor is one there before the first service');
    await driver.apply({ services: { [key]: { targets: targets4 } } });
    assert.equal(all(await connect(5, VIP.v4)), 'pass');
  });

  test('what others change in the maps of services is healed', async () => {
    await driver.apply({ services: SERVICES });
    machine.namespace.run('nft', 'flush', 'map', 'inet', 'mesh_agent', 'lb_tcp4');
    await until('the slots are back', async () =>
      (await driver.services()).every(({ address, targets }) => targets.length > 0 || address.endsWith('2')),
    );
    assert.equal(all(await connect(20, VIP.v4)), 'pass');
  });

  test('no connection fails while backends come and go', async () => {
    const key = '10.96.0.1 6 80';
    await driver.apply({ services: { [key]: { targets: targets4 } } });
    let done = false;
    const load = Array.from({ length: 4 }, async () => {
      const outcomes: Outcome[] = [];
      while (!done || outcomes.length < 100)
        outcomes.push(await machine.probe({ protocol: 'tcp', to: VIP.v4, port: 80, timeoutMs: 5000 }));
      return outcomes;
    });
    for (let round = 0; round < 60; round++) {
      const targets = targets4.filter((_, index) => round % 4 === 3 || index !== round % 4);
      await driver.apply({ services: { [key]: { targets: round % 5 === 4 ? targets.slice(0, 1) : targets } } });
    }
    done = true;
    const outcomes = (await Promise.all(load)).flat();
    assert.equal(all(outcomes), 'pass');
  });
}
