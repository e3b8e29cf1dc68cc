import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Health, logTrouble } from '../../src/api/health.ts';
import { MeshError } from '../../src/core/errors.ts';
import { type Log, silentLog } from '../../src/observe/log.ts';

function watched(): { health: Health; said: string[] } {
  const said: string[] = [];
  const log: Log = {
    ...silentLog,
    info: (message) => said.push(`info ${message}`),
    warn: (message) => said.push(`warn ${message}`),
    error: (message) => said.push(`error ${message}`),
  };
  const health = new Health((record, change) => logTrouble(log, record, change));
  return { health, said };
}

test('a trouble is said once when it begins and once when it is over, whatever it says meanwhile', () => {
  const { health, said } = watched();
  for (let i = 0; i < 100; i++)
    health.set('facts', { code: 'MSH-QUARANTINE', text: `${i} values`, severity: 'warning' });
  assert.equal(health.list()[0]?.text, '99 values');
  health.clear('facts');
  health.clear('facts');
  assert.deepEqual(said, ['warn 0 values', 'info over: 99 values']);
});

test('a store that fails in turns in several ways has one trouble, since when the first began', async () => {
  const { health, said } = watched();
  health.settle('cluster/b', 'KVS-', { code: 'KVS-REFUSED', text: 'refused' });
  const { since } = health.list()[0] ?? { since: 0 };
  await new Promise((resolve) => setTimeout(resolve, 5));
  for (let i = 0; i < 10; i++) {
    health.settle('cluster/b', 'KVS-', { code: 'KVS-TIMEOUT', text: 'silent' });
    health.settle('cluster/b', 'KVS-', { code: 'KVS-REFUSED', text: 'refused' });
  }
  health.settle('cluster/b', 'KVS-', { code: 'KVS-TIMEOUT', text: 'silent' });
  assert.deepEqual(
    health.list().map((record) => [record.code, record.since]),
    [['KVS-TIMEOUT', since]],
  );
  health.set('cluster/b', { code: 'MSH-INCOMPLETE', text: 'waits' });
  health.settle('cluster/b', 'KVS-', undefined);
  assert.deepEqual(
    health.list().map(({ code }) => code),
    ['MSH-INCOMPLETE'],
  );
  assert.deepEqual(said, ['error refused', 'error waits', 'info over: silent']);
});

test('records carry the remedy of their code and the place of their error; the graver and the older come first', () => {
  const { health } = watched();
  health.set('devices', { code: 'AGT-DEVICES', text: 'none', severity: 'warning' });
  health.fail('overlay', new MeshError('OVL-PORT', 'eth9', { place: 'udp/8472' }));
  health.set('policies', { code: 'AGT-POLICY', text: 'bad' });
  assert.deepEqual(
    health.list().map(({ subject }) => subject),
    ['overlay', 'policies', 'devices'],
  );
  const [overlay] = health.of('overlay');
  assert.equal(overlay?.place, 'udp/8472');
  assert.match(overlay?.remedy ?? '', /tunnel\.port/);
  health.check('overlay', 'OVL-PORT', undefined);
  assert.deepEqual(health.of('overlay'), []);
  assert.deepEqual(health.subjects(), ['devices', 'policies']);
});

test('ten thousand subjects are set and cleared without walking through all of them each time', () => {
  const { health } = watched();
  const before = process.cpuUsage();
  for (let i = 0; i < 10_000; i++) health.set(`policy/${i}`, { code: 'CFG-FILE', text: 'unreadable' });
  for (let i = 0; i < 10_000; i++) health.clear(`policy/${i}`, 'CFG-FILE');
  const { user } = process.cpuUsage(before);
  assert.deepEqual(health.list(), []);
  // A walk each time would be a hundred million steps.
  assert.ok(user < 1_000_000, `${user / 1000} ms`);
});
