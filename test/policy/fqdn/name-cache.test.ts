import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Address, formatAddress, parseAddress } from '../../../src/core/ip.ts';
import { NameCache } from '../../../src/policy/fqdn/name-cache.ts';

const ip = (text: string): Address => parseAddress(text) as Address;

function cache(options: { minTtl?: number; maxAddresses?: number; maxNames?: number } = {}) {
  const clock = { now: 1_000_000 };
  const told = new Map<string, string[]>();
  const names = new NameCache({
    minTtl: 0,
    ...options,
    now: () => clock.now,
    onChange: (name, addresses) => void told.set(name, addresses.map(formatAddress)),
  });
  return { clock, told, names };
}

test('answers add up, and each address goes when its own lifetime is over', () => {
  const { clock, told, names } = cache();
  names.learn('a.io', [{ address: ip('192.0.2.1'), ttl: 10 }]);
  clock.now += 5000;
  names.learn('a.io', [{ address: ip('192.0.2.2'), ttl: 10 }]);
  assert.deepEqual(told.get('a.io'), ['192.0.2.1', '192.0.2.2']);
  clock.now += 6000;
  assert.ok(names.due);
  names.expire(() => false);
  assert.deepEqual(told.get('a.io'), ['192.0.2.2']);
  clock.now += 6000;
  names.expire(() => false);
  assert.deepEqual(told.get('a.io'), []);
  assert.equal(names.size, 0);
});

test('an address that connections are open to outlives its answer', () => {
  const { clock, told, names } = cache();
  names.learn('a.io', [{ address: ip('192.0.2.1'), ttl: 1 }]);
  clock.now += 60_000;
  names.expire((address) => formatAddress(address) === '192.0.2.1');
  assert.deepEqual(told.get('a.io'), ['192.0.2.1']);
  names.expire(() => false);
  assert.deepEqual(told.get('a.io'), []);
});

test('a short lifetime is raised to the minimum', () => {
  const { clock, told, names } = cache({ minTtl: 100 });
  names.learn('a.io', [{ address: ip('192.0.2.1'), ttl: 0 }]);
  clock.now += 99_000;
  names.expire(() => false);
  assert.deepEqual(told.get('a.io'), ['192.0.2.1']);
});

test('a name that answers with ever new addresses keeps the youngest, and names give way to newer ones', () => {
  const { told, names } = cache({ maxAddresses: 3, maxNames: 2 });
  for (let i = 1; i <= 9; i++) names.learn('a.io', [{ address: ip(`192.0.2.${i}`), ttl: i }]);
  assert.deepEqual(told.get('a.io'), ['192.0.2.7', '192.0.2.8', '192.0.2.9']);
  names.learn('b.io', [{ address: ip('192.0.2.20'), ttl: 10 }]);
  names.learn('c.io', [{ address: ip('192.0.2.30'), ttl: 10 }]);
  assert.deepEqual([told.get('a.io'), names.size], [[], 2]);
});

test('what was learnt survives a restart, but for what is over or makes no sense', () => {
  const first = cache();
  first.names.learn('a.io', [
    { address: ip('192.0.2.1'), ttl: 5 },
    { address: ip('2001:db8::1'), ttl: 500 },
  ]);
  const saved = JSON.parse(JSON.stringify(first.names.list()));
  saved.push({ name: 'b.io', addresses: [{ address: 'nonsense', until: 9e15 }] }, { name: 7, addresses: [] });
  const second = cache();
  second.clock.now += 60_000;
  second.names.restore(saved);
  assert.deepEqual([...second.told], [['a.io', ['2001:db8::1']]]);
});
