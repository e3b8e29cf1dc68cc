import assert from 'node:assert/strict';
import { test } from 'node:test';
import { until } from '../lab/namespace.ts';
import { CacheLab } from './cache-lab.ts';

test('machines are told of a cluster that the hub cannot reach, until it answers or is connected no more', async () => {
  const lab = await CacheLab.start();
  try {
    const [one, other] = await Promise.all([lab.source(), lab.source()]);
    for (const [name, id, etcd] of [
      ['alpha', 7, one],
      ['beta', 8, other],
    ] as const) {
      await lab.cluster(etcd, { name, id }).publish();
      await lab.connect(name, etcd.endpoints);
    }
    const mesh = await lab.lead();
    await lab.ready(mesh, 'alpha', 'beta');
    const lost = async (): Promise<string> =>
      (await lab.store.list('mesh-agent/v1/lost/')).map(({ key }) => key).join();
    const told = (names: string): Promise<void> => until(`${names} is told`, async () => (await lost()) === names);
    assert.equal(await lost(), '');
    const before = Date.now();
    await one.stop();
    await told('alpha');
    const value = (await lab.store.get('mesh-agent/v1/lost/alpha'))?.value.toString() ?? '';
    const { since } = JSON.parse(value) as { since: number };
    assert.ok(since >= before && since <= Date.now());
    await mesh.stop();
    // The next leader takes over what holds, and takes back what does not.
    await lab.store.put('mesh-agent/v1/lost/gone', '{}');
    const next = await lab.lead();
    await told('alpha');
    await one.restart();
    await told('');
    await lab.ready(next, 'alpha', 'beta');
    await other.stop();
    await told('beta');
    await lab.disconnect('beta');
    await told('');
  } finally {
    await lab.close();
  }
});
