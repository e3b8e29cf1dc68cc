import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { formatAddress, formatIpv4, formatPrefix, parseAddress, parsePrefix } from '../../src/core/ip.ts';
import { nextAfter } from '../../src/mesh/generation.ts';
import { Ipcache } from '../../src/mesh/ipcache.ts';
import { type Origin, Origins } from '../../src/mesh/origin.ts';
import { exhaust } from '../../src/mesh/slices.ts';
import { dumpOf, Reference } from './reference.ts';

const SINGLES = ['10.0.0.1', '10.0.0.2', '10.0.1.1', '10.9.0.1', '192.0.2.7', 'fd00::1', 'fd00::2', 'fd00:0:0:1::5'];
const PREFIXES = ['10.0.0.0/8', '10.0.0.0/24', '10.0.0.1/32', '0.0.0.0/1', 'fd00::/16', 'fd00::/64', 'fd00::1/128'];
const KEYS = [...SINGLES, ...PREFIXES];
const HOSTS = ['', '172.16.0.1', '172.16.0.2', 'fd01::1'];
const ASKED = [...SINGLES, '10.0.0.77', '10.5.5.5', '11.1.1.1', '200.1.1.1', 'fd00::9', 'fd00:1::1', 'fe00::1'];
const WRITERS = [
  ['near', 'local'],
  ['near', 'kvstore'],
  ['near', 'node'],
  ['far', 'clustermesh'],
  ['far', 'clustermesh-node'],
  ['away', 'clustermesh'],
  ['', 'policy'],
] as const;

/** Near the end of the generations, so that they wrap. */
const FIRST = 65_530;

const key = fc.constantFrom(...KEYS);
const writer = fc.nat(WRITERS.length - 1);
const said = fc.record({ identity: fc.constantFrom(6, 1000, 1001), host: fc.constantFrom(...HOSTS) });
const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('claim' as const), writer, key, said }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('withdraw' as const), writer, key }) },
  // A list: what is said again with a value, what is only kept, and the sweep of the rest.
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('list' as const),
      writer,
      again: fc.array(fc.record({ key, said }), { maxLength: 6 }),
      kept: fc.array(key, { maxLength: 4 }),
      broken: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('drain' as const), writer }) },
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** An ipcache and its reference, with the same calls for both. */
class Pair {
  readonly origins = new Origins();
  readonly ipcache = new Ipcache(this.origins);
  readonly reference = new Reference();
  readonly writers: readonly Origin[];
  readonly #generations = new Map<Origin, number>();
  readonly #feeds = [
    this.ipcache.changed4.read(() => {}),
    this.ipcache.changed6.read(() => {}),
    this.ipcache.changedPrefixes.read(() => {}),
  ] as const;

  constructor(order = WRITERS.map((_, index) => index)) {
    const made = new Map(order.map((index) => [index, this.#origin(index)]));
    this.writers = WRITERS.map((_, index) => made.get(index) as Origin);
  }

  #origin(index: number): Origin {
    const [cluster, source] = WRITERS[index] ?? WRITERS[0];
    return this.origins.of(cluster, source);
  }

  claim(origin: Origin, name: string, { identity, host }: { identity: number; host: string }): void {
    const prefix = parsePrefix(name);
    if (prefix === undefined) throw new Error(name);
    this.reference.claim(origin, name, { identity, host });
    this.ipcache.claim(origin, this.#generations.get(origin) ?? FIRST, {
      address: prefix,
      bits: bitsOf(name),
      identity,
      tunnelEndpoint: parseAddress(host),
    });
  }

  withdraw(origin: Origin, name: string): void {
    const prefix = parsePrefix(name);
    if (prefix === undefined) throw new Error(name);
    this.reference.withdraw(origin, name);
    this.ipcache.withdraw(origin, prefix, bitsOf(name));
  }

  take(step: Step): void {
    const origin = this.writers[step.writer] as Origin;
    if (step.kind === 'claim') this.claim(origin, step.key, step.said);
    else if (step.kind === 'withdraw') this.withdraw(origin, step.key);
    else if (step.kind === 'list') this.#list(origin, step);
    else {
      this.reference.retain(origin, new Set());
      this.ipcache.sweep(origin);
    }
  }

  #list(origin: Origin, { again, kept, broken }: Step & { kind: 'list' }): void {
    const generation = nextAfter(this.#generations.get(origin) ?? FIRST);
    this.#generations.set(origin, generation);
    for (const { key: name, said: value } of again) this.claim(origin, name, value);
    for (const name of kept) {
      const prefix = parsePrefix(name);
      if (prefix !== undefined) this.ipcache.keep(origin, generation, prefix, bitsOf(name));
    }
    if (broken) return;
    this.reference.retain(origin, new Set([...again.map(({ key: name }) => name), ...kept]));
    this.ipcache.sweep(origin, generation);
  }

  /** The keys that the feeds named since the last call. */
  changed(): string[] {
    const [four, six, prefixes] = this.#feeds;
    return [...[...four.drain()].map(formatIpv4), ...six.drain(), ...prefixes.drain()].sort();
  }

  check(): void {
    const { ipcache, reference } = this;
    const prefixes = [...reference.claims.keys()].filter((name) => name.includes('/')).length;
    assert.deepEqual(sorted(dumpOf(ipcache.entries(), (_, index) => index >= prefixes)), sorted(reference.dump()));
    assert.equal(ipcache.size, reference.claims.size);
    for (const origin of this.writers) assert.equal(ipcache.countOf(origin), reference.countOf(origin));
    // A single address and its prefix of full length look alike here.
    const full = (name: string): string => formatPrefix(parsePrefix(name) ?? { family: 4, words: [0], bits: 0 });
    assert.deepEqual(
      ipcache
        .conflicts(100)
        .map(({ prefix }) => formatPrefix(prefix))
        .sort(),
      reference.conflicts().map(full).sort(),
    );
    for (const text of ASKED) this.#checkLookup(text);
    const hosts = new Set([...reference.claims.values()].flatMap((all) => [...all.values()].map(({ host }) => host)));
    hosts.delete('');
    assert.equal(ipcache.tunnelEndpoints, hosts.size);
  }

  #checkLookup(text: string): void {
    const address = parseAddress(text);
    if (address === undefined) throw new Error(text);
    const found = this.ipcache.lookup(address);
    const wanted = this.reference.lookup(address);
    assert.equal(found === undefined, wanted === undefined, text);
    if (found === undefined || wanted === undefined) return;
    const [[origin, value]] = this.reference.ranked(wanted) as [[Origin, { identity: number; host: string }]];
    assert.equal(formatPrefix(found.prefix), formatPrefix(parsePrefix(wanted) ?? found.prefix));
    assert.equal(found.origin, origin);
    assert.equal(found.identity, value.identity);
    assert.equal(found.tunnelEndpoint === undefined ? '' : formatAddress(found.tunnelEndpoint), value.host);
    if (wanted.includes('/')) return;
    const via = this.ipcache.hostOf(address.family, address.words);
    assert.equal(via === undefined ? '' : formatAddress(via), value.host);
  }
}

test('whoever claims, withdraws, lists and sweeps: winners, weaker claims, counts, conflicts and lookups are right', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const pair = new Pair();
      for (const each of steps) pair.take(each);
      pair.check();
    }),
    { numRuns: 300 },
  );
});

test('the feeds name each key whose identity or tunnel endpoint changed, and no other', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const pair = new Pair();
      for (const each of steps) {
        const before = pair.reference.inForce();
        pair.take(each);
        const now = pair.reference.inForce();
        const differ = KEYS.filter((name) => before.get(name) !== now.get(name));
        const named = pair.changed();
        // Within one list a key may be claimed twice, away from its value and back.
        if (each.kind === 'list') for (const name of differ) assert.ok(named.includes(name), `${name} in ${named}`);
        else assert.deepEqual(named, differ.sort());
        const touched =
          each.kind === 'list' ? new Set([...differ, ...each.again.map((again) => again.key)]) : undefined;
        for (const name of named) assert.ok(touched === undefined || touched.has(name), `${name} is not concerned`);
      }
    }),
    { numRuns: 300 },
  );
});

test('the same facts in any order, and by origins in any order of appearance, give the same ipcache', () => {
  const claim = fc.record({ writer, key, said });
  const facts = fc.uniqueArray(claim, { maxLength: 40, selector: (each) => `${each.writer} ${each.key}` });
  const both = facts.chain((all) =>
    fc.tuple(
      fc.constant(all),
      fc.shuffledSubarray(all, { minLength: all.length }),
      fc.shuffledSubarray([0, 1, 2, 3, 4, 5, 6], { minLength: 7 }),
    ),
  );
  fc.assert(
    fc.property(both, ([one, other, order]) => {
      const [a, b] = [new Pair(), new Pair(order)];
      for (const each of one) a.claim(a.writers[each.writer] as Origin, each.key, each.said);
      for (const each of other) b.claim(b.writers[each.writer] as Origin, each.key, each.said);
      a.check();
      b.check();
      assert.deepEqual(sorted(a.reference.dump()), sorted(b.reference.dump()));
      const conflicts = (pair: Pair) => pair.ipcache.conflicts(100).map(({ prefix }) => formatPrefix(prefix));
      assert.deepEqual(conflicts(a), conflicts(b));
    }),
    { numRuns: 200 },
  );
});

test('what is said again while a sweep is under way stays, and what is not goes', () => {
  const origins = new Origins();
  const ipcache = new Ipcache(origins);
  const origin = origins.of('c', 'clustermesh');
  const claim = (generation: number, index: number): void =>
    ipcache.claim(origin, generation, {
      address: { family: 4, words: [index] },
      bits: undefined,
      identity: 6,
      tunnelEndpoint: undefined,
    });
  for (let index = 0; index < 5000; index++) claim(1, index);
  const sweep = ipcache.sweeping(origin, 2);
  for (let steps = 0; steps < 5; steps++) sweep.next();
  assert.ok(ipcache.size < 5000);
  // By an event, and by another list that has begun; other keys come and move those of the table.
  for (let index = 0; index < 5000; index += 2) claim(index % 4 === 0 ? 2 : 3, index);
  for (let index = 10_000; index < 30_000; index++) claim(2, index);
  exhaust(sweep);
  assert.equal(ipcache.size, 2500 + 20_000);
  for (let index = 0; index < 5000; index++)
    assert.equal(ipcache.lookup({ family: 4, words: [index] }) !== undefined, index % 2 === 0);
});

test('an address that many clusters claim is told once, and conflicts beyond the limit are not collected', () => {
  const origins = new Origins();
  const ipcache = new Ipcache(origins);
  for (let cluster = 0; cluster < 50; cluster++) {
    for (let index = 0; index < 100; index++) {
      ipcache.claim(origins.of(`c${cluster}`, 'clustermesh'), 0, {
        address: { family: 4, words: [index] },
        bits: undefined,
        identity: 1000 + cluster,
        tunnelEndpoint: undefined,
      });
    }
  }
  assert.equal(ipcache.conflicts(1000).length, 100);
  assert.equal(ipcache.conflicts(7).length, 7);
  assert.equal(ipcache.lookup({ family: 4, words: [5] })?.others.length, 49);
  for (let cluster = 0; cluster < 49; cluster++) ipcache.sweep(origins.of(`c${cluster}`, 'clustermesh'));
  assert.equal(ipcache.conflicts(1000).length, 0);
  assert.equal(ipcache.lookup({ family: 4, words: [5] })?.origin.cluster, 'c49');
});

function bitsOf(name: string): number | undefined {
  return name.includes('/') ? Number(name.split('/')[1]) : undefined;
}

function sorted(map: ReadonlyMap<string, string>): [string, string][] {
  return [...map].sort(([a], [b]) => (a < b ? -1 : 1));
}
