import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { parseAddress } from '../../src/core/ip.ts';
import type { DatapathStatus, KernelAddress } from '../../src/datapath/datapath.ts';
import { metricOf } from '../../src/datapath/overlay/routes.ts';
import { JsonWorker } from '../lab/json-worker.ts';
import { type Namespace, until } from '../lab/namespace.ts';
import type { KernelCommand, Sight } from './kernel-worker.ts';
import { OverlayLab } from './overlay-lab.ts';
import type { OverlayScene } from './overlay-state.ts';

class Driver {
  readonly #worker: JsonWorker;

  private constructor(worker: JsonWorker) {
    this.#worker = worker;
  }

  static async start(where: Namespace, policy: 'probe' | 'nft'): Promise<Driver> {
    return new Driver(await JsonWorker.start(where, join(import.meta.dirname, 'kernel-worker.ts'), policy));
  }

  get drifts(): string[] {
    return this.#worker.drifts;
  }

  #send(command: Omit<KernelCommand, 'id'>): Promise<unknown> {
    return this.#worker.send(command);
  }

  async apply(scene: OverlayScene, changes?: KernelCommand['changes']): Promise<{ added: number }> {
    return (await this.#send({ run: 'apply', scene, ...(changes && { changes }) })) as { added: number };
  }

  async status(): Promise<DatapathStatus> {
    return (await this.#send({ run: 'status' })) as DatapathStatus;
  }

  async seen(): Promise<{ seen: Sight[]; removedWith: object }> {
    return (await this.#send({ run: 'seen' })) as { seen: Sight[]; removedWith: object };
  }

  async dump(): Promise<KernelAddress[]> {
    return (await this.#send({ run: 'dump' })) as KernelAddress[];
  }

  async remove(): Promise<void> {
    await this.#send({ run: 'remove' });
  }
}

async function withLab(run: (lab: OverlayLab, scene: OverlayScene) => Promise<void>): Promise<void> {
  const lab = new OverlayLab();
  try {
    const scene = lab.scene({
      hosts: [
        ['10.1.0.5', '192.0.2.2'],
        ['fd00:1::5', '2001:db8::2'],
      ],
      prefixes: [['10.2.0.0/24', '192.0.2.2']],
    });
    await run(lab, scene);
  } finally {
    await lab.close();
  }
}

test('the policy is applied when the device is there and no route leads to it, and leaves last', () =>
  withLab(async (lab, scene) => {
    const driver = await Driver.start(lab.a, 'probe');
    const { added } = await driver.apply(scene);
    assert.equal(added, 4, 'one by the policy, three routes');
    assert.deepEqual((await driver.seen()).seen, [{ device: true, routes: 0, changes: '{"everything":true}' }]);
    assert.equal(lab.routes().length, 3);
    const { overlay, applied } = await driver.status();
    assert.equal(applied, true);
    assert.deepEqual([overlay?.applied, overlay?.device, overlay?.mtu], [true, 'mesh_vxlan', 1430]);
    await driver.remove();
    assert.deepEqual((await driver.seen()).removedWith, { device: false, routes: 0 });
  }));

test('with native routing the routes are gone before the policy forgets the device', () =>
  withLab(async (lab, scene) => {
    const driver = await Driver.start(lab.a, 'probe');
    await driver.apply(scene);
    await driver.seen();
    await driver.apply({ nodes: [] }, { overlay: true });
    assert.deepEqual((await driver.seen()).seen, [{ device: false, routes: 0, changes: '{"overlay":true}' }]);
  }));

test('listed addresses have the tunnel endpoint that the kernel would send to', () =>
  withLab(async (lab, scene) => {
    const driver = await Driver.start(lab.a, 'probe');
    await driver.apply(scene);
    assert.deepEqual(
      (await driver.dump()).map(({ prefix, tunnelEndpoint }) => `${prefix} ${tunnelEndpoint}`),
      [
        '10.1.0.5/32 192.0.2.2',
        '10.2.0.0/24 192.0.2.2',
        '10.2.0.7/32 192.0.2.2',
        'fd00:1::5/128 2001:db8::2',
        '203.0.113.0/24 0.0.0.0',
        'nonsense 0.0.0.0',
      ],
    );
  }));

test('an overlay that fails does not hold the policy back, and comes by itself when it can', () =>
  withLab(async (lab, scene) => {
    lab.a.run('ip', 'link', 'add', 'mesh_vxlan', 'type', 'vxlan', 'id', '7', 'dstport', '8472', 'dev', 'eth0');
    const driver = await Driver.start(lab.a, 'probe');
    await driver.apply(scene);
    await driver.apply(scene, { overlay: true });
    const { seen } = await driver.seen();
    assert.equal(seen.length, 2, 'the policy was applied each time');
    const failed = await driver.status();
    assert.equal(failed.applied, true);
    assert.equal(failed.overlay?.applied, false);
    assert.equal(failed.overlay?.error?.code, 'OVL-DEVICE');
    assert.deepEqual(lab.routes(), []);
    lab.a.run('ip', 'link', 'delete', 'mesh_vxlan');
    await until('the overlay is there', async () => (await driver.status()).overlay?.applied === true, 30_000);
    assert.equal(lab.routes().length, 3);
    const last = (await driver.seen()).seen.at(-1);
    assert.deepEqual(last, { device: true, routes: 0, changes: '{"overlay":true}' }, 'the rules learnt the new device');
    assert.equal((await driver.status()).overlay?.error, undefined);
  }));

test('a single route that is refused is tried again without being asked', () =>
  withLab(async (lab, scene) => {
    const metric = metricOf(parseAddress('192.0.2.2') ?? assert.fail());
    const inTheWay = ['10.1.0.5/32', 'via', '192.0.2.77', 'dev', 'eth0', 'metric', String(metric)];
    lab.a.run('ip', 'route', 'add', ...inTheWay);
    const driver = await Driver.start(lab.a, 'probe');
    await driver.apply(scene);
    assert.equal((await driver.status()).overlay?.error?.code, 'OVL-ROUTE');
    lab.a.run('ip', 'route', 'delete', ...inTheWay);
    await until('the route is there', async () => (await driver.status()).overlay?.applied === true, 30_000);
    assert.equal(lab.routes().length, 3);
  }));

test('a device that is taken away comes back, known to the policy before routes lead to it', () =>
  withLab(async (lab, scene) => {
    const driver = await Driver.start(lab.a, 'probe');
    await driver.apply(scene);
    await driver.seen();
    lab.a.run('ip', 'link', 'delete', 'mesh_vxlan');
    await until('the routes are back', () => lab.routes().length === 3);
    const { seen } = await driver.seen();
    assert.deepEqual(seen[0], { device: true, routes: 0, changes: '{"everything":true}' });
    await until('it is told as healed', async () => ((await driver.status()).overlay?.healed ?? 0) > 0);
  }));

test('with the real rules, the identity in the overlay decides who may enter, also on a device made anew', () =>
  withLab(async (lab) => {
    const machine = (own: string, peer: string, node: string): OverlayScene => ({
      overlay: { source4: own, ownAddresses: [`${own}/32`] },
      hosts: [[peer, node]],
      nodes: [node],
      devices: ['eth0'],
    });
    const left = machine('10.9.0.1', '10.9.0.2', '192.0.2.2');
    const right = machine('10.9.0.2', '10.9.0.1', '192.0.2.1');
    const a = await Driver.start(lab.a, 'nft');
    const b = await Driver.start(lab.b, 'nft');
    const answers = (): boolean => lab.a.try('ping', '-c', '1', '-W', '0.5', '10.9.0.2').code === 0;
    await a.apply(left);
    await b.apply({ ...right, allowedPeers: [59102] });
    await until('the peer answers', answers);
    await a.apply({ ...left, overlay: { ...left.overlay, identity: 60000 } }, { overlay: true });
    assert.equal(answers(), false, 'another identity is kept out');
    await b.apply({ ...right, allowedPeers: [60000] });
    await until('the peer answers the identity that is allowed now', answers);
    lab.b.run('ip', 'link', 'delete', 'mesh_vxlan');
    await until('the peer answers over its new device', answers);
    const status = await b.status();
    assert.equal(status.overlay?.applied, true);
    await b.remove();
    assert.equal(lab.b.run('nft', 'list', 'tables').trim(), '');
    assert.equal(lab.b.try('ip', 'link', 'show', 'mesh_vxlan').code, 1);
  }));
