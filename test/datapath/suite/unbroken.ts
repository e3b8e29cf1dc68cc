import assert from 'node:assert/strict';
import { test } from 'node:test';
import { until } from '../../lab/namespace.ts';
import { counter, feedNft } from './borders.ts';
import { type DatapathName, Driver } from './driver.ts';
import type { PolicySpec, Spec } from './spec.ts';
import { M, P, wire } from './wire.ts';

const PEER = 70_000;
const SWAPS = 100;
const KILLS = 5;
const MOVES = 600;

/** The n-th of many states that all let ports 80 pass and 81 not, in other words each time. */
function swap(n: number): Spec {
  const rows: readonly (readonly string[])[] = [
    ['allow tcp/80', 'allow udp/80'],
    ['allow tcp/70-80', 'allow udp/80', 'deny udp/81'],
    ['deny tcp/81', 'deny udp/81', 'allow tcp', 'allow udp'],
    ['allow any', 'deny tcp/81-90', 'deny udp/81-90'],
    [`allow tcp/${1000 + n}`, 'allow tcp/80', 'allow udp/79-80'],
  ];
  const identity = n % 3 === 0 ? PEER : PEER + n;
  const policy: PolicySpec = {
    others: n % 2 === 0 ? [] : [`allow tcp/${2000 + n}`],
    of: { [identity]: rows[n % rows.length] ?? [], [PEER + 1000 + n]: ['allow any'] },
  };
  const address: Spec =
    n % 4 < 2
      ? { hosts: { [P.v4]: identity, [P.v6]: identity } }
      : { prefixes: { [`${P.v4}/31`]: identity, [`${P.v6}/127`]: identity } };
  return { ...address, ingress: policy, egress: policy };
}

/** Allowed flows run on and forbidden ones never get through, whatever is swapped or killed meanwhile. */
export function unbrokenSuite(name: DatapathName): void {
  test('no packet of an allowed flow is lost and no forbidden one let in over swaps and restarts', async (t) => {
    const lab = await wire('unbroken', { tcp: [80, 81], udp: [80, 81] });
    t.after(() => lab.close());
    const { namespace } = lab.machine;
    // The receiver's own count: after us, before the socket. And what the peer gets.
    feedNft(
      namespace,
      'table inet see { counter forbidden { }; chain a { type filter hook input priority 100; th dport 81 counter name forbidden; }; }',
    );
    feedNft(
      lab.peer.namespace,
      'table inet see { counter forbidden { }; chain a { type filter hook input priority 100; th dport 81 counter name forbidden; }; }',
    );
    let driver = await Driver.start(name, namespace);
    await driver.apply(swap(0));
    const allowed = await Promise.all([
      lab.peer.flow(M.v4, 80, { everyMs: 5 }),
      lab.peer.flow(M.v6, 80, { everyMs: 7, fresh: true }),
      lab.machine.flow(P.v6, 80, { everyMs: 5 }),
      lab.machine.flow(P.v4, 80, { everyMs: 7, fresh: true }),
    ]);
    const forbidden = await Promise.all([
      lab.peer.flow(M.v4, 81, { everyMs: 7, fresh: true }),
      lab.machine.flow(P.v6, 81, { everyMs: 7, fresh: true }),
    ]);
    const connections = await Promise.all([lab.peer.open(M.v6, 80), lab.machine.open(P.v4, 80)]);
    for (let n = 1; n <= SWAPS; n++) {
      if (n % (SWAPS / KILLS) === 0) {
        // In the midst of a change: what the kernel has then is whole.
        const half = driver.apply(swap(n)).catch(() => undefined);
        if (n % 2 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
        await driver.kill();
        await half;
        driver = await Driver.start(name, namespace, { offset: n * 100 });
        await driver.apply(swap(n));
      } else await driver.apply(swap(n), n % 7 === 0 ? 'everything' : 'changes');
      if (n % 10 === 0) {
        const alive = await Promise.all(connections.map((each) => each.check(3000)));
        assert.deepEqual(alive, ['pass', 'pass'], `after ${n} swaps`);
      }
    }
    const [passed, stopped] = await Promise.all([
      Promise.all(allowed.map((flow) => flow.stop())),
      Promise.all(forbidden.map((flow) => flow.stop())),
    ]);
    await driver.close();
    for (const { sent, received } of passed) assert.deepEqual([received, sent > 100], [sent, true]);
    for (const { sent, received } of stopped) assert.deepEqual([received, sent > 100], [0, true]);
    assert.equal(counter(namespace, 'see', 'forbidden'), 0);
    assert.equal(counter(lab.peer.namespace, 'see', 'forbidden'), 0);
  });

  test('no packet is lost while a peer moves between single addresses and prefixes, to an identity each time', async (t) => {
    const lab = await wire('moves', { udp: [80] });
    t.after(() => lab.close());
    const driver = await Driver.start(name, lab.machine.namespace);
    t.after(() => driver.close());
    const move = (n: number): Spec => {
      const identity = PEER + n;
      const policy: PolicySpec = { of: { [identity]: ['allow udp/80'] } };
      const [v4, v6] = n % 4 < 2 ? [P.v4, P.v6] : [`${P.v4}/31`, `${P.v6}/127`];
      const known = { [v4]: identity, [v6]: identity };
      return { ...(n % 4 < 2 ? { hosts: known } : { prefixes: known }), ingress: policy, egress: policy };
    };
    await driver.apply(move(0));
    const flows = await Promise.all(
      [M.v4, M.v6, M.v4, M.v6].map((to) => lab.peer.flow(to, 80, { everyMs: 1, fresh: true })),
    );
    for (let n = 1; n <= MOVES; n++) await driver.apply(move(n));
    for (const flow of flows) {
      const { sent, received } = await flow.stop();
      assert.deepEqual([received, sent > 100], [sent, true]);
    }
  });

  test('a machine stays enforced when the process is gone', async (t) => {
    const lab = await wire('gone', { tcp: [80, 81] });
    t.after(() => lab.close());
    const driver = await Driver.start(name, lab.machine.namespace);
    await driver.apply(swap(0));
    await driver.kill();
    const probes = [80, 81].map((port) =>
      lab.peer.probe({ protocol: 'tcp', to: M.v4, port, timeoutMs: port === 80 ? 3000 : 300 }),
    );
    assert.deepEqual(await Promise.all(probes), ['pass', 'blocked']);
    if (name !== 'nftables') return;
    await until('the rules are there', () => lab.machine.namespace.run('nft', 'list', 'tables').includes('mesh_agent'));
  });
}
