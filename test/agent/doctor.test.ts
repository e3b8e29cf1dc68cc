import assert from 'node:assert/strict';
import { chmodSync } from 'node:fs';
import { test } from 'node:test';
import { Doctor } from '../../src/agent/doctor/doctor.ts';
import { until } from '../lab/namespace.ts';
import { idleAgent } from './idle-agent.ts';

test('what the doctor finds by itself is in the health of the agent, once, until it is over', async (t) => {
  const { agent } = await idleAgent(t);
  const { stateDir } = agent.config;
  const doctor = new Doctor(agent, { firstMs: 10, everyMs: 100 });
  const stop = new AbortController();
  chmodSync(stateDir, 0o755);
  const running = doctor.run(stop.signal);
  try {
    const told = () => agent.health.list().filter(({ subject }) => subject === 'doctor/state-folder');
    await until('it is told', () => told().length > 0, 20_000);
    const [record] = told();
    assert.deepEqual([record?.code, record?.severity, told().length], ['CFG-EXPOSED', 'warning', 1]);
    chmodSync(stateDir, 0o700);
    await until('it is over', () => told().length === 0, 20_000);
  } finally {
    stop.abort();
    await running;
  }
});

test('whoever asks at the same time gets one examination', async (t) => {
  const { agent } = await idleAgent(t);
  const [first, second] = await Promise.all([agent.doctor.ask(), agent.doctor.ask()]);
  assert.equal(first.checks, second.checks);
  assert.ok(first.checks.length > 5);
  assert.ok(!first.checks.some(({ code }) => code === 'DOC-FAILED'), JSON.stringify(first.checks));
});
