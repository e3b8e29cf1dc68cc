import assert from 'node:assert/strict';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { Namespace, until } from '../lab/namespace.ts';
import type { MachineFacts } from './machine-worker.ts';

interface Lab {
  readonly ns: Namespace;
  /** What was told since the last call. */
  changes(): NonNullable<MachineFacts['change']>[];
  last(): MachineFacts;
  ask(): Promise<MachineFacts>;
}

async function onMachine(prepare: (ns: Namespace) => void, run: (lab: Lab) => Promise<void>): Promise<void> {
  const [ns, outside] = [new Namespace('machine'), new Namespace('outside')];
  try {
    ns.connect(outside, { device: 'eth0', peerDevice: 'peer0' });
    prepare(ns);
    const child = ns.start(process.execPath, ['--no-warnings', join(import.meta.dirname, 'machine-worker.ts')]);
    if (child.stdout === null || child.stdin === null) throw new Error('no pipe');
    const { stdin } = child;
    const told: MachineFacts[] = [];
    createInterface({ input: child.stdout }).on('line', (line) => told.push(JSON.parse(line)));
    child.stderr?.pipe(process.stderr);
    await until('the first state', () => told.length > 1);
    let seen = told.length;
    const changes = (): NonNullable<MachineFacts['change']>[] => {
      const news = told.slice(seen).flatMap(({ change }) => (change === undefined ? [] : [change]));
      seen = told.length;
      return news;
    };
    const last = (): MachineFacts => told.at(-1) as MachineFacts;
    const ask = async (): Promise<MachineFacts> => {
      const before = told.filter(({ change }) => change === undefined).length;
      stdin.write('\n');
      await until('an answer', () => told.filter(({ change }) => change === undefined).length > before);
      return told.findLast(({ change }) => change === undefined) as MachineFacts;
    };
    await run({ ns, changes, last, ask });
  } finally {
    await Promise.all([ns.close(), outside.close()]);
  }
}

const both = (ns: Namespace): void => {
  ns.run('ip', 'address', 'add', '192.0.2.10/24', 'dev', 'eth0');
  ns.run('ip', 'address', 'add', '2001:db8::10/64', 'dev', 'eth0', 'nodad');
  ns.run('ip', 'route', 'add', 'default', 'via', '192.0.2.1');
  ns.run('ip', 'route', 'add', 'default', 'via', '2001:db8::1');
};

test('the machine knows its addresses, gateways and border, and tells what changed of them', () =>
  onMachine(both, async ({ ns, changes, last }) => {
    const { ipv4, ipv6, external, gateways, addresses, mtu } = last();
    assert.deepEqual(
      { ipv4, ipv6, external, mtu },
      { ipv4: '192.0.2.10', ipv6: '2001:db8::10', external: ['eth0'], mtu: 1500 },
    );
    assert.deepEqual([...gateways].sort(), ['192.0.2.1', '2001:db8::1']);
    assert.ok(
      addresses.every((text) => !text.startsWith('fe80')),
      'what is valid on one link only is no address of ours',
    );
    changes();
    ns.run('ip', 'route', 'replace', 'default', 'via', '192.0.2.254');
    await until('the other gateway is told', () => last().gateways.includes('192.0.2.254'));
    assert.deepEqual(changes(), [{ own: false, network: true }]);
    ns.run('ip', 'link', 'set', 'eth0', 'mtu', '1400');
    await until('the MTU is told', () => last().mtu === 1400);
    assert.deepEqual(changes(), [{ own: false, network: false }]);
    ns.run('ip', 'address', 'add', '192.0.2.11/24', 'dev', 'eth0');
    await until('one more address is told', () => last().addresses.includes('192.0.2.11'));
    assert.deepEqual(changes(), [{ own: false, network: false }]);
    ns.run('ip', 'address', 'delete', '192.0.2.10/24', 'dev', 'eth0');
    await until('the other address is told', () => last().ipv4 !== '192.0.2.10');
    assert.ok(changes().some(({ own, network }) => own && network));
  }));

test('a machine without IPv6, and one without IPv4, and one without any address', () =>
  onMachine(
    (ns) => ns.run('ip', 'address', 'add', '192.0.2.10/24', 'dev', 'eth0'),
    async ({ ns, last, ask }) => {
      assert.deepEqual([last().ipv4, last().ipv6, last().families], ['192.0.2.10', '', [4]]);
      ns.run('ip', 'address', 'delete', '192.0.2.10/24', 'dev', 'eth0');
      await until('no address is told', () => last().ipv4 === '');
      assert.deepEqual((await ask()).families, []);
      ns.run('ip', 'address', 'add', '2001:db8::10/64', 'dev', 'eth0', 'nodad');
      await until('the other family is told', () => last().ipv6 === '2001:db8::10');
      assert.deepEqual(last().families, [6]);
    },
  ));

test('a machine that nothing leads out of says so until something does', () =>
  onMachine(
    () => {},
    async ({ ns, ask }) => {
      // A veth without an address is taken for a container's.
      assert.deepEqual((await ask()).health, ['AGT-DEVICES']);
      both(ns);
      await until('the trouble is over', async () => (await ask()).health.length === 0);
    },
  ));

test('containers that come and go all the time are told to nobody and cost little', () =>
  onMachine(both, async ({ ns, changes, ask }) => {
    // As on a busy host: many devices that stay, and some that do not.
    const stay = Array.from({ length: 100 }, (_, i) => `link add stay${i} type veth peer name yats${i}`);
    ns.feed(`${stay.join('\n')}\n`, 'ip', '-batch', '-');
    await until('it is calm', async () => {
      const before = (await ask()).cpuMs;
      await new Promise((resolve) => setTimeout(resolve, 300));
      return (await ask()).cpuMs - before < 30;
    });
    changes();
    const before = await ask();
    const began = performance.now();
    for (let round = 0; round < 20; round++) {
      const names = Array.from({ length: 10 }, (_, i) => `pod${round}x${i}`);
      const come = names.map((name) => `link add ${name} up type veth peer name ${name}p\nlink set ${name}p up`);
      ns.feed(`${come.join('\n')}\n`, 'ip', '-batch', '-');
      ns.feed(`${names.map((name) => `link delete ${name}`).join('\n')}\n`, 'ip', '-batch', '-');
    }
    const took = performance.now() - began;
    const { cpuMs } = await ask();
    assert.deepEqual(changes(), []);
    const share = (cpuMs - before.cpuMs) / took;
    // Reading for every event would be all of the time; events themselves have to be received.
    assert.ok(share < 0.5, `${Math.round(cpuMs - before.cpuMs)} ms of ${Math.round(took)} ms`);
  }));
