import assert from 'node:assert/strict';
import { appendFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { runHere } from '../cli/run-here.ts';
import { KubeApi } from '../lab/kube-api.ts';
import { until } from '../lab/namespace.ts';
import { HubProcess } from './hub-process.ts';

process.env.MESH_TEST_HUB_PARTS = 'all';
const MAIN = join(import.meta.dirname, '../../src/main.ts');

test('`hub run --kube-config` follows the cluster, and every face of the hub shows what is from there', async () => {
  const api = await KubeApi.start();
  const hub = await HubProcess.make();
  const run = async (...args: string[]): Promise<string> =>
    (await runHere(['hub', ...args, '--socket', hub.socket])).stdout;
  const command = ['run', '--kube-config', api.kubeconfig(), '--state-dir', hub.stateDir, '--socket', hub.socket];
  api.missing.add('cilium.io/v2/ciliumclusterwidenetworkpolicies');
  api.put({ kind: 'NetworkPolicy', metadata: { name: 'net', namespace: 'shop' }, spec: { podSelector: {} } });
  api.put({ kind: 'CiliumExternalWorkload', metadata: { name: 'vm-1', labels: { app: 'db' } } });
  try {
    await hub.run(['--no-warnings', MAIN, 'hub', ...command]);
    await until('the workload is there', async () => /default\/vm-1/.test(await run('workload', 'list')), 20_000);
    assert.match(
      await run('policy', 'list'),
      /\nNetworkPolicy\/shop\/net +kubernetes +of-kubernetes\.networkpolicy\.shop\.net /,
    );
    assert.match(await run('workload', 'get', 'vm-1'), /\nSource: +kubernetes\n/);
    const text = await run('status');
    assert.match(text, new RegExp(`\nKubernetes: +connected to ${api.url}, in step (just now|.* ago)\n`));
    assert.match(text, /\n +1 policy and 1 workload are from there, 0 objects refused, 0 also by hand\n/);
    assert.match(text, /Note: CiliumClusterwideNetworkPolicy is not known there/);
    assert.equal((await hub.status()).state, 'ok', 'a missing CRD is no trouble');
    assert.equal((await runHere(['hub', 'policy', 'delete', 'net', '--socket', hub.socket])).code, 1);
    // A hub that follows no cluster any more keeps what it had, until somebody deletes it.
    await hub.end();
    await hub.run();
    const list = await run('policy', 'list');
    assert.match(list, /NetworkPolicy\/shop\/net +kubernetes/);
    assert.doesNotMatch(await run('status'), /\nKubernetes:/);
    assert.match(await run('policy', 'delete', 'net'), /deleted/);
    assert.match(await run('workload', 'delete', 'vm-1'), /deleted/);
  } finally {
    await hub.close();
    await api.close();
  }
});

test('`kubernetes.config` in hub.yaml does the same, and is checked as everything there', async () => {
  const api = await KubeApi.start();
  const hub = await HubProcess.make({ yaml: `kubernetes: {config: ${api.kubeconfig()}}\n` });
  try {
    api.put({ kind: 'NetworkPolicy', metadata: { name: 'net', namespace: 'shop' }, spec: { podSelector: {} } });
    await hub.run();
    const find = async (): Promise<string> => (await runHere(['hub', 'policy', 'list', '--socket', hub.socket])).stdout;
    await until('the policy is there', async () => /NetworkPolicy\/shop\/net/.test(await find()), 20_000);
    await hub.end();
    appendFileSync(hub.folder.config, 'x: 1\n');
    hub.start();
    assert.equal(await hub.ended(), 1);
  } finally {
    await hub.close();
    await api.close();
  }
});
