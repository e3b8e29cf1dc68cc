import assert from 'node:assert/strict';
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { closeObject, openPinned } from '../../src/host/bpf/command.ts';
import { deviceLinkInfo, programId } from '../../src/host/bpf/program.ts';
import { type Namespace, until } from '../lab/namespace.ts';
import { Driver } from './suite/driver.ts';
import { SPEC } from './suite/kernel-spec.ts';
import type { Spec } from './suite/spec.ts';
import { M, P, type Wire, wire } from './suite/wire.ts';

// What eBPF has of its own: pins and links, versions of the programs, maps that grow, and others who take things away.

const OTHER: Spec = {
  ...SPEC,
  hosts: { [P.v4]: 70_000, [P.v6]: 70_001, '10.9.9.8': 70_001 },
  ingress: { of: { 70000: ['allow tcp/80', 'allow tcp/90-95'], 70001: ['allow tcp/443'] } },
};

let lab: Wire;
let namespace: Namespace;
before(async () => {
  lab = await wire('bpf-kernel', { tcp: [80, 81], udp: [80, 81] });
  namespace = lab.machine.namespace;
});
after(() => lab?.close());
beforeEach(() => withDriver(async (driver) => void (await driver.order('remove'))));

/** The folder of the namespace, or undefined when there is none. */
function folder(): string | undefined {
  const root = join(namespace.bpf.path, 'mesh-agent');
  try {
    const [name] = readdirSync(root);
    return name === undefined ? undefined : join(root, name);
  } catch {
    return undefined;
  }
}

function generations(): string[] {
  return readdirSync(folder() ?? '').filter((name) => name !== 'policy-links');
}

/** What is attached where, and whether it belongs to the generation that is pinned. */
function attached(): Record<string, number> {
  const links = join(folder() ?? '', 'policy-links');
  return Object.fromEntries(
    readdirSync(links).map((name) => {
      const link = openPinned(join(links, name), 'link') as number;
      const { program } = deviceLinkInfo(link);
      closeObject(link);
      return [name, program];
    }),
  );
}

function pinnedProgram(name: string): number {
  const fd = openPinned(join(folder() ?? '', generations()[0] ?? '', name), 'prog') as number;
  const id = programId(fd);
  closeObject(fd);
  return id;
}

async function withDriver(
  work: (driver: Driver) => Promise<void>,
  options: { offset?: number; env?: NodeJS.ProcessEnv } = {},
): Promise<void> {
  const driver = await Driver.start('bpf', namespace, options);
  try {
    await work(driver);
  } finally {
    await driver.close();
  }
}

const asked = (port: number, expected = port === 80) =>
  lab.peer.probe({ protocol: 'tcp', to: M.v4, port, timeoutMs: expected ? 3000 : 250 });

test('a new process finds everything right and changes nothing', async () => {
  await withDriver(async (driver) => void (await driver.apply(SPEC)));
  const before = [generations(), attached()];
  await withDriver(
    async (driver) => {
      const report = await driver.apply(SPEC, 'everything');
      assert.deepEqual([report.added, report.removed], [0, 0]);
      assert.equal((await driver.status()).healed, 0);
      assert.ok((await driver.addresses()).some(({ prefix }) => prefix === '10.9.9.9/32'));
    },
    { offset: 1000 },
  );
  assert.deepEqual([generations(), attached()], before);
  assert.deepEqual(new Set(Object.values(attached())), new Set([pinnedProgram('enter'), pinnedProgram('leave')]));
});

test('a new process with another desired state moves the difference alone', async () => {
  await withDriver(async (driver) => void (await driver.apply(SPEC)));
  await withDriver(
    async (driver) => {
      const { added, removed } = await driver.apply(OTHER);
      assert.ok(added > 0 && added + removed < 20, `${added} added, ${removed} removed`);
      const held = await driver.policy();
      assert.ok(held.some(({ first, last }) => first === 90 && last === 95));
      assert.ok(!held.some(({ last }) => last === 99));
    },
    { offset: 1000 },
  );
});

test('what was written for a revision that never came is taken back by the next process', async () => {
  const driver = await Driver.start('bpf', namespace);
  await driver.apply(SPEC);
  const many = Object.fromEntries(
    Array.from({ length: 30_000 }, (_, n) => [`10.${n >> 12}.${(n >> 4) & 255}.${n & 15}`, 7]),
  );
  const half = driver.apply({ ...SPEC, hosts: { ...SPEC.hosts, ...many } }).catch(() => undefined);
  await new Promise((resolve) => setTimeout(resolve, 60));
  await driver.kill();
  await half;
  await withDriver(async (next) => {
    await next.apply(SPEC);
    const held = (await next.addresses()).map(({ prefix }) => prefix);
    assert.equal(held.length, 6);
    assert.deepEqual([await asked(80), await asked(81)], ['pass', 'blocked']);
  });
});

test('programs that somebody takes off a device are back, and it is counted', async () => {
  await withDriver(async (driver) => {
    await driver.apply(SPEC);
    const before = Object.keys(attached()).sort();
    rmSync(join(folder() ?? '', 'policy-links', before[0] ?? ''));
    await until('they are back', () => Object.keys(attached()).sort().join() === before.join());
    await until('it is counted', async () => (await driver.status()).healed === 1);
    assert.deepEqual([await asked(80), await asked(81)], ['pass', 'blocked']);
  });
});

test('pins that somebody removes are made anew, and nothing is open meanwhile', async () => {
  await withDriver(async (driver) => {
    await driver.apply(SPEC);
    const [name = ''] = generations();
    const flow = await lab.peer.flow(M.v4, 81, { everyMs: 5, fresh: true });
    rmSync(join(folder() ?? '', name), { recursive: true });
    await until('it is found', () => driver.events.some(({ event }) => event === 'drift'));
    await until('they are back', async () => generations().length === 1 && (await driver.status()).applied);
    const { sent, received } = await flow.stop();
    assert.deepEqual([received, sent > 0], [0, true]);
    assert.equal((await driver.status()).healed, 1);
    assert.deepEqual([await asked(80), await asked(81)], ['pass', 'blocked']);
  });
});

test('another version takes over under traffic, and connections go on', async () => {
  await withDriver(async (driver) => void (await driver.apply(SPEC)));
  const [old] = generations();
  const allowed = await Promise.all([
    lab.machine.flow(P.v4, 80, { everyMs: 5 }),
    lab.machine.flow(P.v6, 81, { everyMs: 7, fresh: true }),
  ]);
  const forbidden = await lab.peer.flow(M.v4, 81, { everyMs: 7, fresh: true });
  const connection = await lab.peer.open(M.v4, 80);
  await withDriver(
    async (driver) => {
      await driver.apply(SPEC);
      assert.equal(generations().length, 1);
      assert.notEqual(generations()[0], old);
      assert.equal(await connection.check(3000), 'pass');
    },
    { offset: 500, env: { MESH_TEST_DIGEST: 'feedfeedfeedfeed' } },
  );
  await connection.close();
  for (const { sent, received } of await Promise.all(allowed.map((flow) => flow.stop())))
    assert.deepEqual([received, sent > 20], [sent, true]);
  assert.deepEqual((await forbidden.stop()).received, 0);
});

test('maps that are too small grow, under traffic and over a restart', async () => {
  const env = { MESH_TEST_ENTRIES: '64' };
  const hosts = Object.fromEntries(Array.from({ length: 900 }, (_, n) => [`10.5.${n >> 8}.${n & 255}`, 1000 + n]));
  const of = Object.fromEntries(Array.from({ length: 300 }, (_, n) => [1000 + n, [`allow tcp/${n + 1}`]]));
  const big: Spec = { ...SPEC, hosts: { ...SPEC.hosts, ...hosts }, ingress: { of: { ...SPEC.ingress?.of, ...of } } };
  await withDriver(
    async (driver) => {
      await driver.apply(SPEC);
      const flow = await lab.machine.flow(P.v4, 80, { everyMs: 5 });
      const forbidden = await lab.peer.flow(M.v4, 81, { everyMs: 7, fresh: true });
      await driver.apply(big);
      assert.equal((await driver.addresses()).filter(({ prefix }) => prefix.startsWith('10.5.')).length, 900);
      const { sent, received } = await flow.stop();
      assert.deepEqual([received, (await forbidden.stop()).received], [sent, 0]);
      assert.equal(generations().length, 1);
    },
    { env },
  );
  await withDriver(
    async (driver) => {
      const report = await driver.apply(big, 'everything');
      assert.deepEqual([report.added, report.removed], [0, 0]);
    },
    { env, offset: 77 },
  );
});

test('a device that is made anew, or gets the name of an external one, is judged', async () => {
  await withDriver(async (driver) => {
    await driver.apply({ ...SPEC, devices: ['eth0', 'wan'] });
    const links = Object.keys(attached()).length;
    namespace.run('ip', 'link', 'add', 'dummy-x', 'type', 'veth', 'peer', 'name', 'dummy-y');
    namespace.run('ip', 'link', 'set', 'dummy-x', 'name', 'wan');
    await until('it is judged', () => Object.keys(attached()).length === links + 2);
    namespace.run('ip', 'link', 'delete', 'wan');
    await until('its links are gone', () => Object.keys(attached()).length === links);
    await driver.apply({ ...SPEC, devices: ['wan'] });
    assert.deepEqual(attached(), {});
    assert.equal(await asked(81, true), 'pass');
  });
});

for (const name of ['bpf', 'bpf-clsact'] as const) {
  test(`${name}: removal leaves nothing`, async () => {
    const driver = await Driver.start(name, namespace);
    await driver.apply(SPEC);
    assert.equal(await asked(81), 'blocked');
    await driver.order('remove');
    assert.equal(folder(), undefined);
    assert.equal(await asked(81, true), 'pass');
    for (const way of ['ingress', 'egress'])
      assert.equal(namespace.try('tc', 'filter', 'show', 'dev', 'eth0', way).stdout, '');
    assert.doesNotMatch(namespace.run('tc', 'qdisc', 'show', 'dev', 'eth0'), /clsact/);
    await driver.apply(SPEC);
    assert.equal(await asked(81), 'blocked');
    await driver.close();
  });
}

test('a foreign filter of clsact stays where it was', async () => {
  const driver = await Driver.start('bpf-clsact', namespace);
  await driver.apply(SPEC);
  const program = join(folder() ?? '', generations()[0] ?? '', 'enter');
  const filter = ['dev', 'eth0', 'ingress', 'prio', '7', 'bpf', 'direct-action', 'object-pinned', program];
  namespace.run('tc', 'filter', 'add', ...filter);
  assert.deepEqual([await asked(80), await asked(81)], ['pass', 'blocked']);
  await driver.order('remove');
  const left = namespace.run('tc', 'filter', 'show', 'dev', 'eth0', 'ingress');
  assert.match(left, /pref 7 bpf/);
  assert.doesNotMatch(left, /mesh_agent/);
  namespace.run('tc', 'qdisc', 'delete', 'dev', 'eth0', 'clsact');
  await driver.close();
});

test('without a BPF file system it says what to do', async () => {
  const driver = await Driver.spawn('bpf', namespace, { env: { MESH_TEST_BPF: '/tmp' } });
  await assert.rejects(driver.order('open'), { code: 'HST-NO-BPF' });
  await driver.close();
});
