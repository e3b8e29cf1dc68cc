import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MachineAddressFacts } from '../../src/agent/services/address-facts.ts';
import { ClusterReach } from '../../src/agent/services/reach.ts';
import { type Address, parseAddress, parsePrefix } from '../../src/core/ip.ts';
import type { Mesh } from '../../src/mesh/mesh.ts';
import { service } from '../service/build.ts';
import { claim, emptyTables } from './facts.ts';
import { idleAgent } from './idle-agent.ts';

const address = (text: string): Address => parseAddress(text) ?? assert.fail(text);

function facts(): { facts: MachineAddressFacts; own: Address[] } {
  const tables = emptyTables();
  claim(tables, '10.1.0.5', { id: 66_000 });
  const own = [address('192.168.100.10')];
  const made = new MachineAddressFacts({
    ipcache: tables.ipcache,
    own: () => own,
    networks: () => [parsePrefix('192.168.100.0/24') ?? assert.fail()],
    gateways: () => [address('192.168.100.1')],
    stores: () => [{ address: address('198.51.100.7') }],
    allowed: () => ['203.0.113.0/24'],
  });
  return { facts: made, own };
}

const REMOTE = { cluster: 'cluster-b', joined: false };
const JOINED = { cluster: 'cluster-a', joined: true };

test('a frontend is nobody’s address: not of the machine, its network, the mesh, a store, or the world', () => {
  const { facts: all } = facts();
  const table: readonly [string, boolean, boolean][] = [
    // address, refused from a remote cluster, refused from the joined one
    ['10.96.0.1', false, false],
    ['fd00:96::1', false, false],
    ['203.0.113.9', false, false],
    ['8.8.8.8', true, false],
    ['2001:db8::1', true, false],
    ['192.168.100.77', true, false],
    ['192.168.100.10', true, true],
    ['192.168.100.1', true, true],
    ['198.51.100.7', true, true],
    ['127.0.0.1', true, true],
    ['0.0.0.0', true, true],
    ['169.254.1.1', true, true],
    ['224.0.0.1', true, true],
    ['255.255.255.255', true, true],
    ['::1', true, true],
    ['fe80::1', true, true],
    ['ff02::1', true, true],
    ['10.1.0.5', true, true],
  ];
  for (const [text, remote, joined] of table) {
    assert.equal(all.frontendRefusal(address(text), REMOTE) !== undefined, remote, `${text} from a remote cluster`);
    assert.equal(all.frontendRefusal(address(text), JOINED) !== undefined, joined, `${text} from the joined cluster`);
  }
});

test('a remote cluster’s backends are addresses of its own, by the ipcache', () => {
  const { facts: all } = facts();
  const from = (cluster: string) => all.backendRefusal(address('10.1.0.5'), { cluster, joined: false });
  const owner = ['a', 'b', 'c'].filter((cluster) => from(cluster) === undefined);
  assert.equal(owner.length, 1);
  assert.match(from('other') ?? '', new RegExp(`is an address of ${owner[0]}`));
  assert.match(all.backendRefusal(address('10.9.9.9'), REMOTE) ?? '', /is no address of cluster-b/);
  assert.equal(all.backendRefusal(address('10.9.9.9'), JOINED), undefined);
  assert.notEqual(all.backendRefusal(address('127.0.0.1'), JOINED), undefined);
});

test('addresses of the machine are followed', () => {
  const { facts: all, own } = facts();
  assert.equal(all.refresh(), false);
  own.push(address('10.96.0.1'));
  assert.equal(all.refresh(), true);
  assert.match(all.frontendRefusal(address('10.96.0.1'), JOINED) ?? '', /address of this machine/);
});

test('a remote cluster counts as lost after the grace, one that a hub caches by the word of the hub, the joined one never', () => {
  const clusters: Record<string, { kind: string; state: string }> = {
    a: { kind: 'joined', state: 'failed' },
    b: { kind: 'remote', state: 'failed' },
    c: { kind: 'cached', state: 'failed' },
    d: { kind: 'remote', state: 'connected' },
  };
  const list = () =>
    Object.entries(clusters).map(([name, { kind, state }]) => ({
      cluster: { name, kind },
      store: { status: { state } },
    }));
  const reach = new ClusterReach({ list } as unknown as Mesh, () => 30_000);
  const lost = (at: number): string[] => reach.look(at).lost.map(({ name }) => name);
  assert.deepEqual([lost(1000), reach.look(1000).next], [[], 31_000]);
  assert.deepEqual(lost(30_999), []);
  assert.deepEqual(lost(31_000), ['b']);
  // It flaps between failing and trying: the time counts from the first loss.
  clusters.b = { kind: 'remote', state: 'connecting' };
  assert.deepEqual(lost(32_000), ['b']);
  clusters.b = { kind: 'remote', state: 'connected' };
  assert.deepEqual([lost(33_000), reach.look(33_000).next], [[], undefined]);
  clusters.b = { kind: 'remote', state: 'failed' };
  assert.deepEqual(lost(62_999), [], 'the grace begins anew');
  clusters.b = { kind: 'remote', state: 'connected' };
  const told = new Map([
    ['a', 1],
    ['b', 2],
    ['c', 3],
    ['unknown', 4],
  ]);
  assert.deepEqual(reach.look(100_000, told), { lost: [], next: 130_000 });
  assert.deepEqual(reach.look(130_000, told).lost, [{ name: 'c', since: 3 }]);
  assert.deepEqual(reach.look(131_000).lost, []);
});

test('a name has an address while the data path leads on from there, and not before', async (t) => {
  const { agent } = await idleAgent(t);
  const { tables, services } = agent;
  const put = (name: string, vip: string): void => {
    const fact = service('b', name, { frontends: { [vip]: 'http=TCP/80' } });
    tables.services.put(tables.origins.of('b', 'clustermesh'), 1, `b/${name}`, fact);
  };
  const addresses = (name: string): number => services.named(name)[0]?.frontends.length ?? -1;
  put('shop/web', '10.96.0.1');
  services.prepare();
  assert.equal(addresses('shop/web'), 0);
  services.collect();
  assert.equal(addresses('shop/web'), 0, 'it is on its way to the kernel');
  services.applied(true);
  assert.equal(addresses('shop/web'), 1);
  put('shop/web', '10.96.0.2');
  services.collect();
  assert.equal(addresses('shop/web'), 0, 'the new address is on its way');
  services.applied(true);
  assert.equal(addresses('shop/web'), 1);
  put('shop/db', '10.96.0.3');
  services.collect();
  services.applied(false);
  assert.equal(addresses('shop/db'), 0, 'a kernel that balances nothing leads nowhere');
});
