import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { endProcess, type Namespace, until } from '../../lab/namespace.ts';
import type { Connection } from '../../lab/place.ts';
import { counter, feedNft } from './borders.ts';
import { type DatapathName, Driver } from './driver.ts';
import { OPEN, type PolicySpec } from './spec.ts';
import { FAMILIES, M, P, type Wire, wire } from './wire.ts';

const PEER = 70_000;
const hosts = { [P.v4]: PEER, [P.v6]: PEER };
const allow = (...rows: string[]): PolicySpec => ({ of: { [PEER]: rows } });

async function becomes(connection: Connection, outcome: 'pass' | 'blocked'): Promise<void> {
  await until(`the connection is ${outcome}`, async () => (await connection.check(400)) === outcome, 15_000);
}

/** What becomes of connections when the policy changes: the same for every data path. */
export function connectionSuite(name: DatapathName): void {
  let lab: Wire;
  let driver: Driver;
  const machine = (): Namespace => lab.machine.namespace;

  before(async () => {
    lab = await wire('conn', { tcp: [80, 81, 8080], udp: [80, 81] });
    driver = await Driver.start(name, machine());
  });
  after(async () => {
    await driver?.close();
    await lab?.close();
  });

  for (const family of FAMILIES) {
    test(`${family}: a connection whose policy is withdrawn is cut and lives again when it is allowed again`, async () => {
      await driver.apply({ hosts, ingress: allow('allow tcp'), egress: allow('allow tcp') });
      const [inCut, inKept, outCut, outKept] = await Promise.all([
        lab.peer.open(M[family], 80),
        lab.peer.open(M[family], 81),
        lab.machine.open(P[family], 80),
        lab.machine.open(P[family], 81),
      ]);
      // The other direction stays open: neither side may revive the connection by speaking first.
      await driver.apply({ hosts, ingress: allow('allow tcp/81'), egress: allow('allow any') });
      await Promise.all([becomes(inCut, 'blocked'), becomes(outCut, 'pass')]);
      await driver.apply({ hosts, ingress: allow('allow any'), egress: allow('allow tcp/81') });
      await Promise.all([becomes(outCut, 'blocked'), becomes(inCut, 'pass')]);
      for (let look = 0; look < 3; look++) {
        assert.deepEqual(await Promise.all([outCut.check(400), outKept.check(2000), inKept.check(2000)]), [
          'blocked',
          'pass',
          'pass',
        ]);
      }
      await driver.apply({ hosts, ingress: OPEN, egress: OPEN });
      await becomes(outCut, 'pass');
      await Promise.all([inCut, inKept, outCut, outKept].map((each) => each.close()));
    });
  }

  test('a flow that nobody answers is cut too, though each of its packets looks like the first', async () => {
    feedNft(
      machine(),
      'table inet silent { counter got { }; chain x { type filter hook input priority 0; udp dport 82 counter name got; }; }',
    );
    const listener = machine().start('socat', ['-u', 'UDP4-RECV:82', 'OPEN:/dev/null']);
    const got = (): number => counter(machine(), 'silent', 'got');
    await driver.apply({ hosts, ingress: allow('allow udp/82'), egress: OPEN });
    const flow = await lab.peer.flow(M.v4, 82, { everyMs: 10 });
    await until('it arrives', () => got() > 20);
    const withdrawn = async (): Promise<number> =>
      (await driver.status()).verdicts?.find(({ kind, direction }) => kind === 'withdrawn' && direction === 'ingress')
        ?.packets ?? 0;
    const before = await withdrawn();
    await driver.apply({ hosts, ingress: {}, egress: OPEN });
    await until('it is cut', async () => (await withdrawn()) > before + 5);
    const last = got();
    await until('more is cut', async () => (await withdrawn()) > before + 10);
    assert.equal(got(), last);
    await flow.stop();
    await endProcess(listener);
    machine().run('nft', 'delete', 'table', 'inet', 'silent');
  });

  test('connections are listed with who opened them, and what became of them', async () => {
    await driver.apply({ hosts, ingress: allow('allow tcp'), egress: allow('allow any') });
    const opened = await Promise.all([lab.peer.open(M.v6, 8080), lab.machine.open(P.v4, 81)]);
    const listed = async (): Promise<unknown[]> =>
      (await driver.connections())
        .filter(({ local, remote }) => local.port === 8080 || (remote.port === 81 && remote.address === P.v4))
        .filter(({ state }) => state !== 'closing')
        .map(({ direction, protocol, remote, state }) => [direction, protocol, remote.address, state])
        .sort();
    assert.deepEqual(await listed(), [
      ['egress', 6, P.v4, 'open'],
      ['ingress', 6, P.v6, 'open'],
    ]);
    await driver.apply({ hosts, ingress: allow('allow udp'), egress: allow('allow any') });
    await becomes(opened[0], 'blocked');
    assert.deepEqual((await listed())[1], ['ingress', 6, P.v6, 'denied']);
    await driver.apply({ hosts, ingress: OPEN, egress: OPEN });
    await becomes(opened[0], 'pass');
    await Promise.all(opened.map((each) => each.close()));
  });

  test('an address that becomes another identity is judged again', async () => {
    await driver.apply({ hosts, ingress: allow('allow tcp/80'), egress: OPEN });
    const connection = await lab.peer.open(M.v4, 80);
    await driver.apply({ hosts: { ...hosts, [P.v4]: 70_001 }, ingress: allow('allow tcp/80'), egress: OPEN });
    await becomes(connection, 'blocked');
    await driver.apply({ hosts, ingress: allow('allow tcp/80'), egress: OPEN });
    await becomes(connection, 'pass');
    await connection.close();
  });

  test('UDP and ICMP are cut in the midst too', async () => {
    await driver.apply({ hosts, ingress: allow('allow any'), egress: allow('allow any') });
    const flows = await Promise.all([
      lab.peer.flow(M.v4, 80, { everyMs: 10 }),
      lab.machine.flow(P.v4, 80, { everyMs: 10 }),
    ]);
    const ping = lab.peer.namespace.start('ping', ['-n', '-i', '0.05', M.v4]);
    let answers = 0;
    ping.stdout?.on('data', (data: Buffer) => {
      answers += data
        .toString()
        .split('\n')
        .filter((line) => line.includes('time=')).length;
    });
    await until('echo requests are answered', () => answers > 5);
    await driver.apply({ hosts, ingress: allow('allow tcp'), egress: allow('allow tcp') });
    await until('no echo request is answered', async () => {
      const before = answers;
      await new Promise((resolve) => setTimeout(resolve, 500));
      return answers === before;
    });
    ping.kill();
    const again = await Promise.all([
      lab.peer.probe({ protocol: 'udp', to: M.v4, port: 80, timeoutMs: 250 }),
      lab.machine.probe({ protocol: 'udp', to: P.v4, port: 80, timeoutMs: 250 }),
    ]);
    assert.deepEqual(again, ['blocked', 'blocked']);
    const reports = await Promise.all(flows.map((flow) => flow.stop()));
    for (const { sent, received } of reports) assert.ok(received > 0 && received < sent, `${received} of ${sent}`);
  });

  test('a connection to a translated address is judged by where it really goes', async () => {
    const { namespace } = lab.machine;
    namespace.feed(
      `table ip lb { chain out { type nat hook output priority -100; ip daddr 192.0.2.1 tcp dport 443 dnat to ${P.v4}:80; }; }
       table ip route { }`,
      'nft',
      '-f',
      '-',
    );
    namespace.run('ip', 'route', 'replace', '192.0.2.1/32', 'dev', 'eth0');
    await driver.apply({ hosts, ingress: {}, egress: allow('allow tcp/80') });
    const connection = await lab.machine.open('192.0.2.1', 443);
    await driver.apply({ hosts, ingress: {}, egress: allow('allow tcp/80', 'allow udp') });
    for (let look = 0; look < 3; look++) assert.equal(await connection.check(2000), 'pass');
    await driver.apply({ hosts, ingress: {}, egress: allow('allow tcp/443') });
    await becomes(connection, 'blocked');
    await connection.close();
    namespace.run('nft', 'delete', 'table', 'ip', 'lb');
  });

  test('a connection that an exemption let in is not cut, and is when the exemption goes', async () => {
    await driver.apply({ hosts, failsafe: { ingress: ['tcp/80'] }, stores: [`${P.v4} 80`], ingress: {}, egress: {} });
    const [failsafe, store] = await Promise.all([lab.peer.open(M.v4, 80), lab.machine.open(P.v4, 80)]);
    await driver.apply({
      hosts,
      failsafe: { ingress: ['tcp/80'] },
      stores: [`${P.v4} 80`],
      ingress: { others: ['deny any'] },
      egress: { others: ['deny any'] },
    });
    // Two looks at all connections lie within this time.
    for (let look = 0; look < 5; look++) {
      assert.deepEqual(await Promise.all([failsafe.check(2000), store.check(2000)]), ['pass', 'pass']);
      await new Promise((resolve) => setTimeout(resolve, 400));
    }
    await driver.apply({ hosts, ingress: {}, egress: {} });
    await Promise.all([becomes(failsafe, 'blocked'), becomes(store, 'blocked')]);
    await Promise.all([failsafe.close(), store.close()]);
  });

  test('a connection to a store that was first seen by what the store said is not cut', async () => {
    await driver.apply({ hosts, ingress: OPEN, egress: OPEN });
    const connection = await lab.peer.open(M.v4, 80);
    // Seen from here, the peer is a store, and 80 the port that we reached it from.
    const sockets = lab.peer.namespace.run('ss', '-Htn', 'state', 'established', 'dst', `${M.v4}:80`);
    const port = new RegExp(`${P.v4.replaceAll('.', '\\.')}:(\\d+) `).exec(sockets)?.[1];
    await driver.apply({ hosts, stores: [`${P.v4} ${port}`], ingress: {}, egress: {} });
    for (let look = 0; look < 5; look++) {
      assert.equal(await connection.check(2000), 'pass');
      await new Promise((resolve) => setTimeout(resolve, 400));
    }
    await driver.apply({ hosts, ingress: {}, egress: {} });
    await becomes(connection, 'blocked');
    await connection.close();
  });
}

/** Connections that are older than the first start. */
export function olderConnectionSuite(name: DatapathName): void {
  for (const tracked of [false, true]) {
    const how = tracked ? 'that somebody tracked already' : 'that nobody tracked';
    test(`connections older than the first start, ${how}, are judged as new`, async (t) => {
      const lab = await wire('older', { tcp: [80, 81], udp: [80] });
      t.after(() => lab.close());
      if (tracked)
        lab.machine.namespace.feed(
          'table inet other { chain x { type filter hook input priority 0; ct state new accept; }; }',
          'nft',
          '-f',
          '-',
        );
      const [inDenied, inAllowed, outDenied, outAllowed] = await Promise.all([
        lab.peer.open(M.v4, 80),
        lab.peer.open(M.v4, 81),
        lab.machine.open(P.v4, 80),
        lab.machine.open(P.v4, 81),
      ]);
      const driver = await Driver.start(name, lab.machine.namespace);
      t.after(() => driver.close());
      await driver.apply({ hosts, ingress: allow('allow tcp/81'), egress: allow('allow tcp/81') });
      const seen = await Promise.all([inDenied, inAllowed, outDenied, outAllowed].map((each) => each.check(1500)));
      assert.deepEqual(seen, ['blocked', 'pass', 'blocked', 'pass']);
      await driver.apply({ hosts, ingress: allow('allow tcp/80'), egress: allow('allow tcp/80') });
      await Promise.all([becomes(inDenied, 'pass'), becomes(inAllowed, 'blocked'), becomes(outAllowed, 'blocked')]);
    });
  }

  test('connections older than the first start are cut where nobody may come in and everything may leave', async (t) => {
    const lab = await wire('older', { tcp: [80, 81] });
    t.after(() => lab.close());
    const [denied, allowed, own] = await Promise.all([
      lab.peer.open(M.v4, 80),
      lab.peer.open(M.v4, 81),
      lab.machine.open(P.v4, 80),
    ]);
    const driver = await Driver.start(name, lab.machine.namespace);
    t.after(() => driver.close());
    await driver.apply({ hosts, ingress: allow('allow tcp/81'), egress: OPEN });
    const seen = await Promise.all([denied, allowed, own].map((each) => each.check(1500)));
    assert.deepEqual(seen, ['blocked', 'pass', 'pass']);
  });
}
