import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { classOfNumber } from '../../src/datapath/nft/names.ts';
import { type Namespace, until } from '../lab/namespace.ts';
import { Driver, DriverError } from './suite/driver.ts';
import { SPEC } from './suite/kernel-spec.ts';
import { OPEN, type Spec } from './suite/spec.ts';
import { M, P, type Wire, wire } from './suite/wire.ts';

// What nftables has of its own: the table, its transactions, restarts, and others who write.

const FOREIGN = `
table ip nat {
  chain PREROUTING {
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local jump DOCKER
  }
  chain DOCKER {
    iifname "docker0" return
    tcp dport 8080 dnat to 172.17.0.2:80
  }
}
table inet firewalld {
  set zones { type ifname; elements = { "eth0" }; }
  chain filter_INPUT {
    type filter hook input priority filter + 10; policy accept;
    ct state { established, related } accept
    iifname @zones tcp dport 22 accept
  }
}
`;

const OTHER: Spec = {
  ...SPEC,
  hosts: { [P.v4]: 70_000, [P.v6]: 70_001, '10.9.9.8': 70_001 },
  ingress: { of: { 70000: ['allow tcp/80', 'allow tcp/90-99'], 70001: ['allow tcp/443'] } },
};

let lab: Wire;
let namespace: Namespace;
before(async () => {
  lab = await wire('kernel', { tcp: [80, 81], udp: [80, 81] });
  namespace = lab.machine.namespace;
  namespace.feed(FOREIGN, 'nft', '-f', '-');
});
after(() => lab?.close());

/** All tables but ours. */
function foreign(): string {
  return namespace
    .run('nft', 'list', 'tables')
    .split('\n')
    .filter((line) => line !== '' && line !== 'table inet mesh_agent')
    .map((line) => namespace.run('nft', 'list', ...line.split(' ')))
    .join('');
}

function ours(): string {
  // Counters and the order of elements say nothing.
  return namespace
    .run('nft', '-s', 'list', 'table', 'inet', 'mesh_agent')
    .split('\n')
    .map((line) =>
      line.replace(/elements = \{(.*)\}/, (_, all: string) =>
        all
          .split(',')
          .map((one) => one.trim())
          .sort()
          .join(),
      ),
    )
    .join('\n');
}

/** Counts what others see of changes of nftables while `work` runs. */
async function eventsDuring(work: () => Promise<unknown>): Promise<string[]> {
  const monitor = namespace.start('nft', ['monitor']);
  const lines: string[] = [];
  monitor.stdout?.on('data', (data: Buffer) => void lines.push(...data.toString().split('\n')));
  const mark = async (name: string): Promise<void> => {
    await until(`the monitor sees ${name}`, () => {
      namespace.run('nft', 'add', 'table', 'ip', name);
      namespace.run('nft', 'delete', 'table', 'ip', name);
      return lines.some((line) => line.includes(`delete table ip ${name}`));
    });
  };
  await mark('start');
  lines.length = 0;
  await work();
  await mark('end');
  monitor.kill();
  return lines.filter((line) => line !== '' && !/table ip (start|end)|new generation/.test(line));
}

async function withDriver(work: (driver: Driver) => Promise<void>, options: { offset?: number } = {}): Promise<void> {
  const driver = await Driver.start('nftables', namespace, options);
  try {
    await work(driver);
  } finally {
    await driver.close();
  }
}

/** So that classes have the numbers that they get when all is made anew. */
async function fromNothing(driver: Driver): Promise<void> {
  await driver.order('remove');
  await driver.apply(SPEC);
}

test('a new process finds everything right and changes nothing', async () => {
  await withDriver(async (driver) => void (await driver.apply(SPEC)));
  const before = [ours(), foreign()];
  const events = await eventsDuring(() =>
    withDriver(
      async (driver) => {
        const report = await driver.apply(SPEC, 'everything');
        assert.deepEqual([report.added, report.removed], [0, 0]);
        assert.equal((await driver.status()).healed, 0);
      },
      { offset: 1000 },
    ),
  );
  assert.deepEqual(events, []);
  assert.deepEqual([ours(), foreign()], before);
});

test('a new process with another desired state moves the difference alone', async () => {
  await withDriver(async (driver) => void (await driver.apply(SPEC)));
  await withDriver(
    async (driver) => {
      const { added, removed } = await driver.apply(OTHER);
      // One address changes, one goes, one comes; 70001 gets a row and a class; the audited row and its class go.
      assert.ok(added + removed <= 12, `${added} added, ${removed} removed`);
      const rows = await driver.policy();
      assert.equal(rows.find(({ first }) => first === 443)?.identities.join(), '70001');
    },
    { offset: 50 },
  );
});

test('what is removed is gone, and nothing else', async () => {
  const before = foreign();
  await withDriver(async (driver) => {
    await driver.apply(SPEC);
    await driver.order('remove');
    assert.deepEqual(await driver.addresses(), []);
    assert.deepEqual(await driver.policy(), []);
    assert.deepEqual(namespace.run('nft', 'list', 'tables').includes('mesh_agent'), false);
    assert.equal(
      driver.events.some(({ event }) => event === 'drift'),
      false,
    );
    await driver.apply(SPEC);
    assert.equal((await driver.addresses()).length > 3, true);
  });
  assert.equal(foreign(), before);
});

const HARMS: Record<string, readonly (readonly string[])[]> = {
  'the table is deleted': [['delete', 'table', 'inet', 'mesh_agent']],
  'a chain is emptied': [['flush', 'chain', 'inet', 'mesh_agent', 'entering']],
  'a rule is added': [['insert', 'rule', 'inet', 'mesh_agent', 'entering', 'accept']],
  'a rule is replaced by another': [
    ['flush', 'chain', 'inet', 'mesh_agent', 'passed_in'],
    ['add', 'rule', 'inet', 'mesh_agent', 'passed_in', 'drop'],
  ],
  'a base chain gets another policy': [['add', 'chain', 'inet', 'mesh_agent', 'leave', '{ policy drop; }']],
  'a chain with a hook is added': [
    ['add', 'chain', 'inet', 'mesh_agent', 'stranger', '{ type filter hook input priority 0; policy drop; }'],
  ],
  'the table is put to sleep': [['add', 'table', 'inet', 'mesh_agent', '{ flags dormant; }']],
  'an address is deleted': [['delete', 'element', 'inet', 'mesh_agent', 'host4_2', `{ ${P.v4} }`]],
  'an address is added': [['add', 'element', 'inet', 'mesh_agent', 'host4_5', '{ 10.9.9.5 : 70000 }']],
  'a map is emptied': [['flush', 'map', 'inet', 'mesh_agent', 'class_in']],
  'a range of addresses is added': [['add', 'element', 'inet', 'mesh_agent', 'cidr4', '{ 192.168.0.0/16 : 70000 }']],
  'a row is added': [['add', 'element', 'inet', 'mesh_agent', 'all_in', '{ 0x80aaaa80 : return }']],
  'the set of exempt ports is emptied': [['flush', 'set', 'inet', 'mesh_agent', 'exempt_in']],
  'the failsafe set is emptied': [['flush', 'set', 'inet', 'mesh_agent', 'failsafe_in']],
};

test('what others change in our table is noticed within a second, healed, counted and told', async () => {
  await withDriver(async (driver) => {
    await fromNothing(driver);
    const [right, others] = [ours(), foreign()];
    let healed = (await driver.status()).healed;
    for (const [harm, commands] of Object.entries(HARMS)) {
      const start = Date.now();
      for (const command of commands) namespace.run('nft', ...command);
      await until(`healed after ${harm}`, async () => (await driver.status()).healed > healed, 5000);
      assert.ok(Date.now() - start < 2500, `${harm}: ${Date.now() - start} ms`);
      await until(`all is well after ${harm}`, async () => ours() === right && (await driver.status()).applied, 5000);
      healed = (await driver.status()).healed;
    }
    assert.equal(foreign(), others);
    assert.ok(driver.events.filter(({ event }) => event === 'drift').length >= Object.keys(HARMS).length);
    assert.ok(driver.events.some(({ message }) => message === 'a foreign change was healed'));
    assert.equal(
      driver.events.some(({ event }) => event === 'failed'),
      false,
    );
  });
});

test('a flushed ruleset is restored, and what belonged to others is left to them', async () => {
  await withDriver(async (driver) => {
    await fromNothing(driver);
    const right = ours();
    namespace.run('nft', 'flush', 'ruleset');
    await until('healed', async () => (await driver.status()).healed === 1, 5000);
    await until('all is well', () => ours() === right);
    assert.equal(foreign(), '');
    namespace.feed(FOREIGN, 'nft', '-f', '-');
  });
});

test('changes of others outside of our table are none of our business', async () => {
  await withDriver(async (driver) => {
    await driver.apply(SPEC);
    namespace.run('nft', 'add', 'table', 'inet', 'mesh_agent_not');
    namespace.run('nft', 'add', 'table', 'ip', 'mesh_agent');
    namespace.run('nft', 'add', 'chain', 'ip', 'mesh_agent', 'x', '{ type filter hook input priority 0; }');
    await driver.order('again');
    assert.deepEqual(
      driver.events.filter(({ event }) => event === 'drift'),
      [],
    );
    namespace.run('nft', 'delete', 'table', 'inet', 'mesh_agent_not');
    namespace.run('nft', 'delete', 'table', 'ip', 'mesh_agent');
  });
});

test('what others changed while nobody looked is healed by the next process', async () => {
  await withDriver(async (driver) => void (await driver.apply(SPEC)));
  const right = ours();
  for (const commands of Object.values(HARMS))
    for (const command of commands.slice(-1)) namespace.try('nft', ...command);
  await withDriver(async (driver) => void (await driver.apply(SPEC)));
  assert.equal(ours(), right);
  namespace.run('nft', 'insert', 'rule', 'inet', 'mesh_agent', 'entering', 'accept');
  await withDriver(async (driver) => void (await driver.apply(SPEC)));
  assert.equal(ours(), right);
});

test('rules of another version are replaced in one transaction and the content is kept', async () => {
  await withDriver(async (driver) => void (await driver.apply(SPEC)));
  const right = ours();
  const stamp = /stamp_\w+/.exec(right)?.[0] ?? '';
  // Another version: another stamp, a rule more, and a chain and a map that we know nothing of.
  namespace.feed(
    `delete chain inet mesh_agent ${stamp}
     table inet mesh_agent { map host4_old { type ipv4_addr : mark; elements = { 10.1.1.1 : 7 }; }
       chain old { meta mark set ip saddr map @host4_old; }; chain stamp_0000000000000000_plain_0000 { }; }
     insert rule inet mesh_agent judge_in jump old`,
    'nft',
    '-f',
    '-',
  );
  const connection = await lab.peer.open(M.v4, 80);
  const flow = await lab.peer.flow(M.v4, 81, { everyMs: 5, fresh: true });
  const events = await eventsDuring(() => withDriver(async (driver) => void (await driver.apply(SPEC))));
  assert.equal(
    events.some((line) => line.includes('element')),
    false,
    events.filter((line) => line.includes('element')).join('\n'),
  );
  const { sent, received } = await flow.stop();
  assert.ok(sent > 10);
  assert.equal(received, 0);
  assert.equal(await connection.check(3000), 'pass');
  await connection.close();
  assert.equal(
    ours()
      .replace(/\tmap host4_old \{[^}]*\}\n*/s, '')
      .includes('chain old'),
    false,
  );
  assert.match(ours(), new RegExp(stamp));
});

test('maps of services that another version made otherwise are replaced while the policy stays in force', async () => {
  await withDriver(async (driver) => void (await driver.apply(SPEC)));
  // As by a version whose map had no counters and whose rules led to it; another map is not there at all.
  namespace.feed(
    `delete map inet mesh_agent lb_services4
     delete map inet mesh_agent lb_services6
     table inet mesh_agent {
       map lb_services4 { type ipv4_addr . inet_proto . inet_service : mark; elements = { 10.96.0.1 . 6 . 80 : 7 }; }
       chain lb4_16 { drop; }
       chain lb { meta mark set ip daddr . meta l4proto . th dport map @lb_services4; meta mark vmap { 7 : goto lb4_16 }; }
       chain lb_out { type nat hook output priority -100; policy accept; meta l4proto 6 jump lb; }
     }`,
    'nft',
    '-f',
    '-',
  );
  const flow = await lab.peer.flow(M.v4, 81, { everyMs: 1, fresh: true });
  await withDriver(async (driver) => void (await driver.apply(SPEC)));
  const { sent, received } = await flow.stop();
  assert.ok(sent > 20);
  assert.equal(received, 0);
  assert.match(namespace.run('nft', 'list', 'map', 'inet', 'mesh_agent', 'lb_services4'), /counter/);
  namespace.run('nft', 'list', 'map', 'inet', 'mesh_agent', 'lb_services6');
  // Without a hook the kernel would no longer translate the connections that there are.
  assert.match(ours(), /chain lb_out/);
});

test('a transaction is taken whole or not at all', async () => {
  await withDriver(async (driver) => void (await driver.apply(SPEC)));
  const before = ours();
  const script = `
    import { NETLINK_NETFILTER, NetlinkSocket } from './src/host/netlink.ts';
    import { ElementBatch } from './src/datapath/nft/elements.ts';
    const batch = new ElementBatch(new NetlinkSocket({ family: NETLINK_NETFILTER }));
    batch.host([0x0a010101], 7);
    batch.host([0x0a010102], undefined);
    batch.host([0x0a010103], 7);
    await batch.send().then(() => process.exit(1), (error) => console.log(error.errnoName));
    process.exit(0);`;
  const said = namespace.run(process.execPath, '--no-warnings', '--input-type=module', '-e', script);
  assert.equal(said.trim(), 'ENOENT');
  assert.equal(ours(), before);
});

test('a change set that fails is told, and all is right after the next attempt', async () => {
  await withDriver(async (driver) => {
    await driver.apply(SPEC);
    // While the process is busy, its next order waits and an address goes: the order meets a kernel that it does not know.
    const stalled = driver.order('stall', { ms: 1500 });
    await until('it is busy', () => driver.events.some(({ event }) => event === 'stalled'));
    const applied = driver.apply(OTHER);
    await new Promise((resolve) => setTimeout(resolve, 100));
    namespace.run('nft', 'delete', 'element', 'inet', 'mesh_agent', 'host4_9', '{ 10.9.9.9 }');
    await assert.rejects(applied, (error) => error instanceof DriverError && error.code === 'DPN-APPLY');
    await stalled;
    await driver.apply(OTHER);
    assert.equal((await driver.status()).error, undefined);
    const prefixes = (await driver.addresses()).map(({ prefix }) => prefix);
    assert.deepEqual([prefixes.includes('10.9.9.9/32'), prefixes.includes('10.9.9.8/32')], [false, true]);
  });
});

test('a changed address is one element, and a changed row is one row', async () => {
  await withDriver(async (driver) => {
    await driver.apply(SPEC);
    const address = await driver.apply({ ...SPEC, hosts: { ...SPEC.hosts, '10.1.2.3': 70_001 } });
    assert.deepEqual([address.added, address.removed], [1, 0]);
    const row = await driver.apply({
      ...SPEC,
      egress: { ...SPEC.egress, others: ['allow udp/53', 'allow icmp/8', 'allow udp/99'] },
    });
    assert.deepEqual([row.added, row.removed], [1, 1]);
    const none = await driver.apply({
      ...SPEC,
      egress: { ...SPEC.egress, others: ['allow udp/53', 'allow icmp/8', 'allow udp/99'] },
    });
    assert.deepEqual([none.added, none.removed], [0, 0]);
  });
});

test('nft that is missing, too old or refused is named with its remedy', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'mesh-nft-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const failure = async (options: Parameters<typeof Driver.spawn>[2]): Promise<{ code: string; message: string }> => {
    const driver = await Driver.spawn('nftables', namespace, options);
    try {
      await driver.order('open');
      return { code: '', message: 'opened' };
    } catch (error) {
      return error as DriverError;
    } finally {
      await driver.close();
    }
  };
  const missing = await failure({ via: ['/usr/bin/env', `PATH=${folder}`] });
  assert.deepEqual([missing.code, /not installed/.test(missing.message)], ['DPN-MISSING', true]);
  // What nft 0.9.3 says of the first text that it does not know.
  writeFileSync(
    join(folder, 'nft'),
    '#!/bin/sh\ncat >/dev/null\necho "Error: syntax error, unexpected typeof, expecting string" >&2\nexit 1\n',
    { mode: 0o755 },
  );
  const old = await failure({ via: ['/usr/bin/env', `PATH=${folder}:${process.env.PATH}`] });
  assert.deepEqual([old.code, /typeof/.test(old.message)], ['DPN-OLD', true]);
  const powerless = await failure({ via: ['setpriv', '--bounding-set', '-net_admin', '--inh-caps', '-net_admin'] });
  assert.deepEqual([powerless.code, /refuses/.test(powerless.message)], ['DPN-PERMISSION', true]);
});

test('hostile sizes: every range, 200 devices, and classes that come and go', async () => {
  await withDriver(async (driver) => {
    const ranges = Array.from({ length: 16_383 }, (_, i) => `allow tcp/${i * 4 + 1}-${i * 4 + 2}`);
    const devices = Array.from({ length: 200 }, (_, i) => `dev${i}.é"'`);
    await driver.apply({
      devices: [...devices, 'eth0'],
      hosts: SPEC.hosts ?? {},
      ingress: { of: { 70000: ranges } },
      egress: OPEN,
    });
    assert.equal((await driver.policy()).filter(({ protocol }) => protocol === 6).length, 16_383 * 2);
    assert.equal(await lab.peer.probe({ protocol: 'tcp', to: M.v4, port: 81, timeoutMs: 3000 }), 'pass');
    assert.equal(await lab.peer.probe({ protocol: 'tcp', to: M.v4, port: 80, timeoutMs: 250 }), 'blocked');
    for (let round = 0; round < 60; round++) {
      await driver.apply({
        hosts: SPEC.hosts ?? {},
        ingress: { of: { 70000: [`allow tcp/${round + 1}`], 70001: [`allow udp/${round + 1}`] } },
        egress: OPEN,
      });
    }
    // Numbers are used again: none is far from the first.
    const classes = (await driver.policy()).map(({ classNumber }) => classOfNumber(classNumber));
    assert.ok(Math.max(...classes) < 10, `${classes}`);
  });
});
