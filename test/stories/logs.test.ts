import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { MeshLab } from '../lab/mesh-lab.ts';
import { until } from '../lab/namespace.ts';
import { CLUSTER_A, startStory } from '../lab/story.ts';

/** What the log of an agent says when things break, and how it is read. */
const folder = mkdtempSync(join(tmpdir(), 'mesh-logs-'));
const file = join(folder, 'agent.log');
let lab: MeshLab;

before(async () => {
  lab = await startStory([CLUSTER_A], { config: { log: { file } } });
});
after(async () => {
  await lab?.close();
  rmSync(folder, { recursive: true, force: true });
});

interface Line {
  readonly time: string;
  readonly level: string;
  readonly room: string;
  readonly msg: string;
  readonly code?: string;
  readonly remedy?: string;
}

const lines = (): Line[] =>
  readFileSync(file, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Line);

test('the log goes to the file, for its owner alone, and not to standard error', () => {
  assert.equal(statSync(file).mode & 0o777, 0o600);
  assert.equal(lab.agent.log, '');
  assert.ok(lines().some(({ msg }) => msg.startsWith('everything was seen once')));
});

test('a store that is away is one line with code and remedy when it begins, and one when it is over', async () => {
  const from = lines().length;
  const { door } = lab.cluster('cluster-a');
  await door.shut();
  await lab.agent.untilStatus('the store is away', ({ kvstore }) => kvstore.failures >= 6, 60_000);
  await door.open();
  await lab.agent.untilStatus(
    'it is back',
    ({ kvstore, health }) => kvstore.state === 'connected' && health.length === 0,
    60_000,
  );
  await until('the log has it', () =>
    lines()
      .slice(from)
      .some(({ msg }) => msg.startsWith('over: ')),
  );
  const said = lines().slice(from);
  const [begun, ...rest] = said.filter(({ code }) => code !== undefined);
  assert.equal(begun?.level, 'error');
  assert.match(begun?.code ?? '', /^KVS-/);
  assert.ok((begun?.remedy ?? '') !== '');
  assert.deepEqual(
    rest.map(({ level, msg }) => [level, msg.startsWith('over: ')]),
    [['info', true]],
    JSON.stringify(said),
  );
  assert.ok(said.length <= 4, JSON.stringify(said));
});

test('a store that comes and goes again and again, and hundreds of bad values, do not fill the log', async () => {
  const from = lines().length;
  const { door, facts } = lab.cluster('cluster-a');
  for (let cut = 0; cut < 2; cut++) {
    const { reconnections } = (await lab.agent.status()).kvstore;
    door.cut();
    await lab.agent.untilStatus('it is connected anew', ({ kvstore }) => kvstore.reconnections > reconnections, 30_000);
  }
  const bad = Array.from({ length: 400 }, (_, i) => `10.99.${i >> 8}.${i & 255}`);
  await Promise.all(bad.map((ip) => facts.set('endpoints', ip, '{"IP": 7}')));
  await lab.agent.untilStatus('they are refused', ({ counts }) => counts.quarantined === bad.length, 60_000);
  const said = lines().slice(from);
  assert.ok(said.length < 30, `${said.length} lines: ${JSON.stringify(said.slice(0, 80))}`);
  await Promise.all(bad.map((ip) => facts.unset('endpoints', ip)));
  await lab.agent.untilStatus('they are gone', ({ counts }) => counts.quarantined === 0, 60_000);
});

test('`logs` shows the last lines, those of a level, since a time, for people and for programs', async () => {
  const all = await lab.agent.run('logs', '-n', '1000');
  assert.equal(all.code, 0, all.stderr);
  assert.match(all.stdout, /^[0-9:.]{12} INFO {2}agent +mesh-agent starts version=/);
  assert.equal((await lab.agent.run('logs', '-n', '3')).stdout.trimEnd().split('\n').length, 3);
  const bad = await lab.agent.run('logs', '--level', 'error', '-n', '1000', '-o', 'json');
  const records = bad.stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Line);
  assert.ok(records.length > 0 && records.every(({ level }) => level === 'error'), bad.stdout);
  assert.equal((await lab.agent.run('logs', '--since', '2100-01-01')).stdout, '');
  assert.notEqual((await lab.agent.run('logs', '--since', '1h')).stdout, '');
  assert.equal((await lab.agent.run('logs', '--since', 'yesterday')).code, 2);
});
