import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { NumericIdentity } from '../../../src/core/identity.ts';
import { contains, type Prefix, parsePrefix } from '../../../src/core/ip.ts';
import type { KernelAddress, KernelPolicyRow } from '../../../src/datapath/datapath.ts';
import { judge } from '../../../src/datapath/judge.ts';
import type { DirectionPolicy, PolicyClass } from '../../../src/policy/result.ts';
import { Namespace } from '../../lab/namespace.ts';
import { type DatapathName, Driver } from './driver.ts';
import { Classes, type PolicySpec, rowOf, type Spec } from './spec.ts';

const HOSTS = [
  '10.0.0.1',
  '10.0.0.2',
  '10.0.1.1',
  '10.0.0.33',
  '255.255.255.255',
  '0.0.0.0',
  'fd00::1',
  'fd00::2',
  '::',
  'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff',
];
const PREFIXES = [
  '0.0.0.0/0',
  '10.0.0.0/8',
  '10.0.0.0/30',
  '10.0.0.0/31',
  '10.0.1.0/24',
  '128.0.0.0/1',
  '255.255.255.254/31',
  '0.0.0.0/1',
  '10.0.0.2/32',
  '::/0',
  'fd00::/8',
  'fd00::/127',
  'fd00::2/128',
  '8000::/1',
  'ffff:ffff::/32',
];
const IDENTITIES = [1, 2, 9, 10, 256, 70_000, 70_001, 0x0100_0001];
const ROWS = [
  'allow tcp/80',
  'deny tcp/80',
  'deny tcp/443',
  'allow udp/53',
  'deny udp',
  'allow tcp',
  'allow icmp/8',
  'deny icmpv6/128',
  'allow any',
  'deny any',
  'allow sctp/1-9',
  'deny sctp/20-65535',
  'allow tcp/100-200',
  'deny tcp/300-400 audit',
  'deny udp/53 audit',
];

/** No two rows of a class on one place. */
const rows = fc.uniqueArray(fc.constantFrom(...ROWS), { maxLength: 6, selector: (row) => row.split(' ')[1] });
const policy: fc.Arbitrary<PolicySpec> = fc.record({
  enforcing: fc.boolean(),
  defaultDeny: fc.boolean(),
  others: rows,
  of: fc.dictionary(fc.constantFrom(...IDENTITIES.map(String)), rows, { maxKeys: 5 }),
});
const table = (keys: readonly string[]): fc.Arbitrary<Record<string, number>> =>
  fc.dictionary(fc.constantFrom(...keys), fc.constantFrom(...IDENTITIES), { maxKeys: 8 });
const spec: fc.Arbitrary<Spec> = fc.record({
  hosts: table(HOSTS),
  prefixes: table(PREFIXES),
  ingress: policy,
  egress: policy,
  audit: fc.boolean(),
  dualStack: fc.boolean(),
  devices: fc.subarray(['eth0', 'eth1', 'wan']),
  failsafe: fc.record({ ingress: fc.subarray(['tcp/22', 'udp/500']), egress: fc.subarray(['tcp/22']) }),
});

/** Random states by random ways: what the kernel holds in the end says exactly what was desired. */
export function randomSuite(name: DatapathName): void {
  test('after any run of change sets and restarts the kernel holds what is desired', async (t) => {
    const namespace = new Namespace('random');
    let driver = await Driver.start(name, namespace);
    t.after(async () => {
      await driver.close();
      await namespace.close();
    });
    let count = 0;
    const step = fc.record({
      spec,
      by: fc.constantFrom('changes' as const, 'everything' as const),
      restart: fc.nat(24),
    });
    const run = fc.asyncProperty(fc.array(step, { minLength: 8, maxLength: 12 }), async (steps) => {
      for (const { spec: wanted, by, restart } of steps) {
        count++;
        if (restart === 0) {
          await driver.close();
          driver = await Driver.start(name, namespace, { offset: count });
        }
        await driver.apply(wanted, by);
        assert.deepEqual(heldAddresses(await driver.addresses()), wantedAddresses(wanted));
        comparePolicy(await driver.policy(), wanted);
      }
    });
    await fc.assert(run, { numRuns: 40, endOnFailure: true });
    assert.ok(count >= 320);
    // And the last one, seen by a process that knows nothing of it.
    const [addresses, held] = [await driver.addresses(), await driver.policy()];
    await driver.close();
    driver = await Driver.start(name, namespace, { offset: 100_000 });
    assert.deepEqual(await driver.addresses(), addresses);
    assert.deepEqual(await driver.policy(), held);
  });
}

const text = (prefix: Prefix): string => JSON.stringify(prefix);

/** Identity of every place where an answer may change: all hosts, and both ends of all prefixes and their neighbors. */
function places(): { at: Prefix; name: string }[] {
  return [
    ...HOSTS,
    '9.255.255.255',
    '11.0.0.0',
    '10.0.0.3',
    '10.0.0.4',
    '127.255.255.255',
    '128.0.0.0',
    'fcff::',
    'fd00::3',
    '7fff::',
    '8000::',
    'fffe::',
  ].map((name) => {
    const at = parsePrefix(name);
    if (at === undefined) throw new Error(name);
    return { at, name };
  });
}

function wantedAddresses(wanted: Spec): Record<string, number | undefined> {
  const all = Object.entries(wanted.prefixes ?? {}).map(([prefix, identity]) => ({
    prefix: parsePrefix(prefix) as Prefix,
    identity,
  }));
  const hosts = Object.entries(wanted.hosts ?? {}).map(([host, identity]) => ({
    prefix: parsePrefix(host) as Prefix,
    identity,
    host: true,
  }));
  return Object.fromEntries(
    places().map(({ at, name }) => {
      const host = hosts.find(({ prefix }) => text(prefix) === text(at));
      const longest = all.filter(({ prefix }) => contains(prefix, at)).sort((a, b) => b.prefix.bits - a.prefix.bits)[0];
      return [name, host?.identity ?? longest?.identity];
    }),
  );
}

/** Of the kernel's own list. A single address may be there twice, as prefix and as host: the host is listed later. */
function heldAddresses(held: readonly KernelAddress[]): Record<string, number | undefined> {
  const all = held.map(({ prefix, identity }) => ({ prefix: parsePrefix(prefix) as Prefix, identity }));
  return Object.fromEntries(
    places().map(({ at, name }) => [name, all.filter(({ prefix }) => contains(prefix, at)).at(-1)?.identity]),
  );
}

/** Every identity gets the verdicts that the model gives, by a policy made of the kernel's rows. */
function comparePolicy(held: readonly KernelPolicyRow[], wanted: Spec): void {
  for (const direction of ['ingress', 'egress'] as const) {
    const model = new Classes().policy(wanted[direction]);
    const kernel = policyOf(held.filter((row) => row.direction === direction));
    for (const identity of [...IDENTITIES, 4_000_000] as NumericIdentity[]) {
      for (const [protocol, ports] of [
        [6, [79, 80, 81, 99, 100, 200, 201, 300, 443]],
        [17, [53, 54]],
        [132, [0, 1, 9, 10, 20, 65_535]],
        [1, [0, 8]],
        [58, [128, 129]],
        [47, [0]],
      ] as const) {
        for (const port of ports) {
          const packet = { identity, protocol, port };
          const expected = wanted.audit === true ? 'allow' : judge(model, packet);
          const seen = wanted.audit === true ? 'allow' : judge(kernel, packet);
          assert.equal(seen, expected, JSON.stringify({ direction, packet, held, wanted }));
        }
      }
    }
    // Each row once: nothing is left over.
    const classes = [...model.classes()].filter(
      ({ id }) => id === model.unknownClass.id || [...model.identities()].some(([, each]) => each.id === id),
    );
    // An open class says so with a row for everything, and so does one that has no rows and denies.
    const open = !(model.enforcing && model.defaultDeny);
    const added = (of: PolicyClass): number => {
      const last = open ? !of.rows.some(({ protocol }) => protocol === 0) : of.rows.length === 0;
      return last ? 1 : 0;
    };
    const expected = classes.reduce((sum, of) => sum + of.rows.length + added(of), 0);
    assert.equal(
      held.filter((row) => row.direction === direction).length,
      expected,
      JSON.stringify({ direction, held, wanted }),
    );
  }
}

function policyOf(held: readonly KernelPolicyRow[]): DirectionPolicy {
  const others = held.filter(({ identities }) => identities.length === 0);
  const rowsOf = (list: readonly KernelPolicyRow[]) =>
    list.map(({ verdict, audit, protocol, first, last }) => ({
      ...rowOf(`${verdict} any`),
      protocol: protocol as 6,
      first,
      last,
      ...(audit === true && { audit }),
    }));
  const unknownClass = { id: 1, rows: rowsOf(others) };
  const named = new Set(held.flatMap(({ identities }) => identities));
  const classOf = (id: number) =>
    named.has(id)
      ? { id: 2 + id, rows: rowsOf(held.filter(({ identities }) => identities.includes(id))) }
      : unknownClass;
  return {
    enforcing: true,
    defaultDeny: true,
    unknownClass,
    classOf,
    identities: () => [],
    classes: () => [unknownClass],
  };
}
