import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { until } from '../../lab/namespace.ts';
import type { Outcome, Place } from '../../lab/place.ts';
import type { DatapathName, Driver } from './driver.ts';
import { sctpInit } from './frames.ts';
import { all, M, SERVICES, ServicesLab, targets4, VIP, v4 } from './services-lab.ts';
import type { Spec } from './spec.ts';

/** Services in the kernel, with real connections. */
export function servicesSuite(name: DatapathName, options: { readonly container: boolean }): void {
  let lab: ServicesLab;
  let driver: Driver;
  before(async () => {
    lab = await ServicesLab.start(options);
    driver = await lab.drive(name);
    assert.equal((await driver.status()).balances, true);
  });
  after(async () => {
    await driver?.close();
    await lab?.close();
  });

  for (const family of ['v4', 'v6'] as const) {
    for (const protocol of ['tcp', 'udp'] as const) {
      test(`connections spread evenly over the backends: ${protocol} over IP${family}`, async () => {
        await driver.apply({ services: SERVICES });
        lab.forget();
        assert.equal(all(await lab.connect(300, VIP[family], { protocol })), 'pass');
        const seen = Object.values(lab.counts());
        assert.equal(seen.length, 3);
        // 100 each is expected, with a deviation of 8: five of them are 40.
        for (const count of seen) assert.ok(count >= 60 && count <= 140, JSON.stringify(lab.counts()));
      });
    }
  }

  test('an SCTP association is led to one of the backends', async () => {
    await driver.apply({ services: { '10.96.0.1 132 7': { targets: targets4 } } });
    const arrived = (): number[] =>
      [...lab.backends.values()].map(({ namespace }) =>
        Number(/packets (\d+)/.exec(namespace.run('nft', 'list', 'counter', 'inet', 'seen', 'associations'))?.[1]),
      );
    // The first packets may wait for a neighbour and be lost.
    for (let sent = 0; sent < 5 && arrived().every((count) => count === 0); sent++) {
      lab.machine.namespace.feed(sctpInit(40_000, 7) as never, 'socat', '-u', '-', `IP4-SENDTO:${VIP.v4}:132`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    assert.equal(arrived().filter((count) => count > 0).length, 1);
  });

  test('weights decide how many each gets', async () => {
    await driver.apply({ services: { '10.96.0.1 6 80': { targets: [`${v4(11)} 8080 30`, `${v4(12)} 8080 10`] } } });
    lab.forget();
    assert.equal(all(await lab.connect(400, VIP.v4)), 'pass');
    const { [v4(11)]: heavy = 0, [v4(12)]: light = 0 } = lab.counts();
    assert.equal(heavy + light, 400);
    // A quarter is 100, with a deviation of 9.
    assert.ok(light >= 55 && light <= 145, JSON.stringify(lab.counts()));
    const [frontend] = await driver.services();
    assert.deepEqual(frontend?.targets.map(({ slots }) => slots).sort(), [1, 3]);
  });

  test('a frontend without backends is refused at once, and other ports of its address are not', async () => {
    await driver.apply({ services: SERVICES });
    const start = performance.now();
    const outcomes = await Promise.all([
      lab.machine.probe({ protocol: 'tcp', to: '10.96.0.2', port: 80, timeoutMs: 4000 }),
      lab.machine.probe({ protocol: 'tcp', to: 'fd00:96::2', port: 80, timeoutMs: 4000 }),
      lab.machine.probe({ protocol: 'udp', to: '10.96.0.2', port: 53, timeoutMs: 4000 }),
    ]);
    assert.equal(all(outcomes), 'refused');
    assert.ok(performance.now() - start < 3000, 'none of them waited for its end');
  });

  test('an established connection stays with its backend when that leaves; new ones find the others', async () => {
    const key = '10.96.0.1 6 80';
    await driver.apply({ services: { [key]: { targets: [targets4[0] as string] } } });
    const connection = await lab.machine.open(VIP.v4, 80);
    await driver.apply({ services: { [key]: { targets: targets4.slice(1) } } });
    assert.equal(await connection.check(), 'pass');
    lab.forget();
    assert.equal(all(await lab.connect(50, VIP.v4)), 'pass');
    assert.equal(lab.counts()[v4(11)], undefined);
    await driver.apply({ services: {} });
    assert.equal(await connection.check(), 'pass', 'also without the service');
    await connection.close();
  });

  test('a UDP flow moves to another backend when its own leaves', async () => {
    const key = '10.96.0.1 17 53';
    await driver.apply({ services: { [key]: { targets: [targets4[0] as string] } } });
    lab.forget();
    const flow = await lab.machine.flow(VIP.v4, 53, { everyMs: 20 });
    await until('the flow is at the first backend', () => (lab.counts()[v4(11)] ?? 0) > 0);
    await driver.apply({ services: { [key]: { targets: [targets4[1] as string] } } });
    await until('the flow is at the second backend', () => (lab.counts()[v4(12)] ?? 0) > 0);
    const { sent, received } = await flow.stop();
    assert.equal(received, sent, 'and lost nothing, since the first one still answers');
  });

  test('a UDP flow that began before there was a backend finds it', async () => {
    const key = '10.96.0.1 17 53';
    await driver.apply({ services: {} });
    const flow = await lab.machine.flow(VIP.v4, 53, { everyMs: 20 });
    await new Promise((resolve) => setTimeout(resolve, 200));
    lab.forget();
    await driver.apply({ services: { [key]: { targets: [targets4[2] as string] } } });
    await until('the flow is at the backend', () => (lab.counts()[v4(13)] ?? 0) > 0).catch(async (error: unknown) => {
      throw new Error(`${String(error)}\n${JSON.stringify([driver.events, await driver.services(), lab.counts()])}`);
    });
    assert.ok((await flow.stop()).received > 0);
  });

  test('a sticky frontend keeps a client at one backend, also when others come and go', async () => {
    const key = '10.96.0.1 6 80';
    const apply = (targets: readonly string[]) => driver.apply({ services: { [key]: { sticky: true, targets } } });
    await apply(targets4);
    lab.forget();
    await lab.connect(40, VIP.v4);
    const [own = '', ...others] = Object.keys(lab.counts());
    assert.deepEqual(others, []);
    const rest = targets4.filter((target) => !target.startsWith(`${own} `));
    await apply(targets4.filter((target) => target !== rest[0]));
    await lab.connect(40, VIP.v4);
    await apply(targets4);
    await lab.connect(40, VIP.v4);
    assert.deepEqual(lab.counts(), { [own]: 120 });
    await apply(rest);
    lab.forget();
    await lab.connect(40, VIP.v4);
    assert.deepEqual(Object.values(lab.counts()), [40], 'one of the others, and the same for all');
  });

  if (options.container) {
    test('containers behind the machine are led to backends, who comes from outside is not', async () => {
      await driver.apply({ services: SERVICES });
      lab.forget();
      assert.equal(all(await lab.connect(50, VIP.v4, { from: lab.container as Place })), 'pass');
      assert.equal(
        Object.values(lab.counts()).reduce((sum, count) => sum + count),
        50,
      );
      lab.router.namespace.run('ip', 'route', 'add', '10.96.0.0/16', 'via', M.v4);
      const outcome = await lab.router.probe({ protocol: 'tcp', to: VIP.v4, port: 80 });
      assert.notEqual(outcome, 'pass');
    });
  }

  test('the mark of a packet is what it was before', async () => {
    await driver.apply({ services: SERVICES });
    lab.machine.namespace.feed(
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
    await lab.connect(20, VIP.v4);
    await lab.connect(20, v4(11), { port: 8080 });
    assert.equal(all(await lab.connect(3, '10.96.0.2')), 'refused');
    const text = lab.machine.namespace.run('nft', 'list', 'counters', 'table', 'inet', 'marks');
    lab.machine.namespace.run('nft', 'delete', 'table', 'inet', 'marks');
    assert.deepEqual(
      [...text.matchAll(/counter (\w+) \{\s*packets (\d+)/g)].map(([, name, count]) => `${name} ${count}`),
      ['kept 40', 'other 0'],
    );
  });

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
    for (const from of lab.clients) {
      assert.equal(await from.probe({ protocol: 'tcp', to: VIP.v4, port: 80, timeoutMs: 4000 }), 'pass');
      assert.equal(await from.probe({ protocol: 'tcp', to: '10.96.0.3', port: 80 }), 'blocked');
    }
    await driver.apply(policy(['allow tcp/80']));
    for (const from of lab.clients)
      assert.equal(await from.probe({ protocol: 'tcp', to: VIP.v4, port: 80 }), 'blocked');
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
    driver = await lab.drive(name);
    const again = await apply([targets4[1], `${v4(14)} 8080`] as string[], 'everything');
    assert.deepEqual([again.added, again.removed], [0, 0]);
    const less = await driver.apply({ services: { [key]: { targets: targets4 } } }, 'everything');
    assert.ok(less.removed >= 200 * 4, `${less.removed} elements of 200 services`);
    assert.equal((await driver.services()).length, 1);
    await driver.close();
    driver = await lab.drive(name);
    await driver.apply({}, 'everything');
    assert.equal((await driver.services()).length, 1, 'who knows nothing of services leaves them in force');
    assert.equal(all(await lab.connect(5, VIP.v4)), 'pass');
    await driver.apply({ services: 'off' });
    assert.deepEqual(await driver.services(), []);
    const hooks = (): boolean => lab.machine.namespace.run('nft', 'list', 'chains', 'inet').includes('lb_');
    assert.ok(!hooks(), 'and no hook is left');
    await driver.apply({ services: {} });
    assert.ok(!hooks(), 'nor is one there before the first service');
    await driver.apply({ services: { [key]: { targets: targets4 } } });
    assert.equal(all(await lab.connect(5, VIP.v4)), 'pass');
  });

  test('what others change in the maps of services is healed', async () => {
    await driver.apply({ services: SERVICES });
    lab.machine.namespace.run('nft', 'flush', 'map', 'inet', 'mesh_agent', 'lb_tcp4');
    await until('the slots are back', async () =>
      (await driver.services()).every(({ address, targets }) => targets.length > 0 || address.endsWith('2')),
    );
    assert.equal(all(await lab.connect(20, VIP.v4)), 'pass');
  });

  test('no connection fails while backends come and go', async () => {
    const key = '10.96.0.1 6 80';
    await driver.apply({ services: { [key]: { targets: targets4 } } });
    let done = false;
    const load = Array.from({ length: 4 }, async () => {
      const outcomes: Outcome[] = [];
      while (!done || outcomes.length < 100)
        outcomes.push(await lab.machine.probe({ protocol: 'tcp', to: VIP.v4, port: 80, timeoutMs: 5000 }));
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
