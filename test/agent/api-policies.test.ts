import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { ApiPolicies } from '../../src/agent/api-policies.ts';
import { Health } from '../../src/api/health.ts';
import type { ApplyAnswer } from '../../src/api/policy-types.ts';
import { PolicyRepository } from '../../src/policy/repository.ts';
import { modelWith } from '../policy/build.ts';

const root = mkdtempSync(join(tmpdir(), 'mesh-api-policies-'));
after(() => rmSync(root, { recursive: true, force: true }));
let count = 0;

function open(stateDir = join(root, String(count++))) {
  mkdirSync(stateDir, { recursive: true });
  const health = new Health(() => undefined);
  const repository = new PolicyRepository({ model: modelWith(''), now: () => 1 });
  const policies = new ApiPolicies({ stateDir, repository, health, onChange: () => undefined });
  return { stateDir, health, repository, policies, folder: join(stateDir, 'policies') };
}

const cnp = (name: string, port = '80'): string =>
  JSON.stringify({
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNetworkPolicy',
    metadata: { name, namespace: 'shop' },
    spec: { endpointSelector: {}, ingress: [{ toPorts: [{ ports: [{ port, protocol: 'TCP' }] }] }] },
  });

const changes = (answer: ApplyAnswer): unknown =>
  answer.kind === 'PolicyApplied' ? answer.items.map(({ name, change }) => [name, change]) : answer.items;

test('objects are kept one by one: what is applied again replaces its own kind alone', async () => {
  const { policies, repository, stateDir } = open();
  assert.deepEqual(changes(await policies.apply({ texts: [{ name: 'two', text: `${cnp('a')}\n---\n${cnp('b')}` }] })), [
    ['CiliumNetworkPolicy/shop/a', 'created'],
    ['CiliumNetworkPolicy/shop/b', 'created'],
  ]);
  assert.deepEqual(changes(await policies.apply({ texts: [{ name: 'other', text: cnp('a', '81') }] })), [
    ['CiliumNetworkPolicy/shop/a', 'changed'],
  ]);
  assert.deepEqual(changes(await policies.apply({ texts: [{ name: 'other', text: cnp('a', '81') }] })), [
    ['CiliumNetworkPolicy/shop/a', 'unchanged'],
  ]);
  const before = repository.list();
  const next = open(stateDir);
  await next.policies.load();
  assert.deepEqual(next.repository.list(), before);
});

test('names that are no names of files are kept all the same, and nothing is written beside the folder', async () => {
  const { policies, repository, folder, stateDir } = open();
  const names = ['..', '../../x', 'a/b', 'a_b', 'ü'.repeat(30), '\ud800', '.hidden', 'x'.repeat(64)];
  const raw = '[{"endpointSelector": {}, "ingress": [{}]}]';
  for (const name of names)
    assert.equal((await policies.apply({ texts: [{ name, text: raw }] })).kind, 'PolicyApplied', name);
  const long = 'l'.repeat(253);
  await policies.apply({ texts: [{ name: 'x', text: cnp(long) }] });
  assert.equal(readdirSync(folder).length, names.length + 1);
  assert.deepEqual(readdirSync(stateDir), ['policies']);
  const before = repository.list().map(({ name }) => name.toWellFormed());
  const next = open(stateDir);
  await next.policies.load();
  assert.deepEqual(next.health.list(), []);
  assert.deepEqual(
    next.repository.list().map(({ name }) => name),
    before,
  );
  for (const { name } of next.repository.list()) assert.ok(await next.policies.delete(name), name);
  assert.deepEqual(readdirSync(folder), []);
});

test('a text with an object that is refused changes nothing', async () => {
  const { policies, repository, folder } = open();
  for (const text of [
    `${cnp('a')}\n---\n{"kind": "CiliumNetworkPolicy"}`,
    'a: [',
    '',
    '# nothing',
    `${cnp('a')}\n---\n${cnp('a')}`,
  ]) {
    const answer = await policies.apply({ texts: [{ name: 'x', text }] });
    assert.equal(answer.kind, 'PolicyValidation', text);
    if (answer.kind === 'PolicyValidation') assert.ok(answer.items.length > 0 && !answer.ok);
  }
  assert.deepEqual(repository.list(), []);
  assert.throws(() => readdirSync(folder));
  await assert.rejects(policies.apply({ texts: [{ name: 'x'.repeat(65), text: cnp('a') }] }), { code: 'API-REQUEST' });
});

test('what cannot be written is told, and not in force', async () => {
  const { policies, repository, stateDir } = open();
  writeFileSync(join(stateDir, 'policies'), 'no folder');
  await assert.rejects(policies.apply({ texts: [{ name: 'x', text: cnp('a') }] }), { code: 'AGT-STATE' });
  assert.deepEqual(repository.list(), []);
});

test('a file that was damaged is shown as a policy that is not valid, the others count', async () => {
  const { policies, stateDir, folder } = open();
  await policies.apply({ texts: [{ name: 'x', text: `${cnp('a')}\n---\n${cnp('b')}` }] });
  const [first = ''] = readdirSync(folder).sort();
  writeFileSync(join(folder, first), readFileSync(join(folder, first), 'utf8').slice(0, 40));
  writeFileSync(join(folder, 'large.json'), Buffer.alloc((8 << 20) + 1));
  writeFileSync(join(folder, '.left'), 'x');
  chmodSync(folder, 0o700);
  const next = open(stateDir);
  await next.policies.load();
  assert.deepEqual(
    next.repository
      .list()
      .map(({ state }) => state)
      .sort(),
    ['in-force', 'invalid'].sort(),
  );
  assert.deepEqual(
    next.health.list().map(({ code, place }) => [code, place]),
    [['AGT-STATE', join(folder, 'large.json')]],
  );
});
