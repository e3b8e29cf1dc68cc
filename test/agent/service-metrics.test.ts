import assert from 'node:assert/strict';
import { test } from 'node:test';
import { exportServices, MAX_NAMED_SERVICES } from '../../src/agent/services/service-metrics.ts';
import { openMetrics } from '../../src/observe/metrics.ts';
import { emptyCounts, type Tally } from '../../src/service/tally.ts';

const tally = (name: string, counts: Partial<Tally['backends']>, serving = counts.active ?? 0): Tally => ({
  ...{ name, global: true, frontends: 1, serving },
  backends: { ...emptyCounts(), ...counts },
});

async function lines(tallies: readonly Tally[]): Promise<string[]> {
  const metrics = openMetrics({ version: '1', commit: 'c' });
  try {
    exportServices(metrics, {
      tallies: () => tallies,
      checks: () => ({ checked: 3, unchecked: 0, waiting: 1 }),
    });
    return (await metrics.render()).split('\n').filter((line) => line.startsWith('mesh_agent_service'));
  } finally {
    metrics.close();
  }
}

test('each service tells how many backends serve, and how many there are in each state', async () => {
  assert.deepEqual(await lines([tally('prod/api', { active: 2, unhealthy: 1 })]), [
    'mesh_agent_service_serving_backends{service="prod/api",scope="global"} 2',
    'mesh_agent_service_backends_by_service{service="prod/api",scope="global",state="active"} 2',
    'mesh_agent_service_backends_by_service{service="prod/api",scope="global",state="unhealthy"} 1',
    'mesh_agent_services_unnamed 0',
    'mesh_agent_service_checks{state="checked"} 3',
    'mesh_agent_service_checks{state="unchecked"} 0',
    'mesh_agent_service_checks{state="waiting"} 1',
  ]);
});

test('of ten thousand services a bounded number is named, those in trouble first, and the rest is counted', async () => {
  const many = Array.from({ length: 10_000 }, (_, n) => tally(`ns/fine-${n}`, { active: 1 }));
  many.push(tally('ns/zz-dead', { unhealthy: 0 }), tally('ns/zz-sick', { active: 1, unreachable: 1 }));
  const shown = await lines(many);
  const named = shown.filter((line) => line.startsWith('mesh_agent_service_serving_backends'));
  assert.equal(named.length, MAX_NAMED_SERVICES);
  assert.match(named[0] ?? '', /ns\/zz-dead",scope="global"\} 0/);
  assert.match(named[1] ?? '', /ns\/zz-sick/);
  assert.ok(shown.includes(`mesh_agent_services_unnamed ${10_002 - MAX_NAMED_SERVICES}`));
});
