import assert from 'node:assert/strict';
import { test } from 'node:test';
import { judge } from '../../src/datapath/judge.ts';
import type { PolicyModel } from '../../src/policy/model.ts';
import { PolicyRepository } from '../../src/policy/repository.ts';
import { APP, modelWith, policy } from './build.ts';

const opens = (port: number): string => policy(`ingress: [{toPorts: [{ports: [{port: "${port}", protocol: TCP}]}]}]`);
const named = (text: string, name: string): string => text.replace('name: p', `name: ${name}`);
const BROKEN = policy('ingress: [{fromEntities: [internet]}]');

function make(): {
  model: PolicyModel;
  repository: PolicyRepository;
  at: (time: number) => void;
  open: () => number[];
} {
  const model = modelWith('');
  let now = 1000;
  const repository = new PolicyRepository({ model, now: () => now });
  const at = (time: number): void => {
    now = time;
  };
  const passes = (port: number): boolean =>
    judge(model.resolved.ingress, { identity: APP, protocol: 6, port }) === 'allow';
  return { model, repository, at, open: () => [80, 81, 82, 83].filter(passes) };
}

const states = (repository: PolicyRepository): string[] =>
  repository.list().map(({ name, source, state }) => `${name} ${source} ${state}`);

test('a document is put, replaced and removed', () => {
  const { repository, open } = make();
  repository.put('directory', 'web.yaml', opens(80));
  assert.deepEqual(open(), [80]);
  repository.put('directory', 'web.yaml', opens(81));
  assert.deepEqual(open(), [81]);
  assert.deepEqual(states(repository), ['CiliumNetworkPolicy/shop/p directory:web.yaml in-force']);
  repository.remove('directory', 'web.yaml');
  assert.deepEqual(open(), [80, 81, 82, 83]);
  assert.deepEqual(repository.list(), []);
});

test('an object that turns bad stays in force as it was, and says what is wrong', () => {
  const { repository, open, at } = make();
  repository.put('directory', 'web.yaml', opens(80));
  at(2000);
  repository.put('directory', 'web.yaml', BROKEN);
  assert.deepEqual(open(), [80]);
  const [entry] = repository.list();
  assert.equal(entry?.state, 'last-good');
  assert.equal(entry?.since, 2000);
  assert.match(entry?.messages[0] ?? '', /document 1, line 6, spec\.ingress\[0\].*unsupported entity: internet/);
  repository.put('directory', 'web.yaml', opens(82));
  assert.deepEqual(open(), [82]);
  assert.equal(repository.list()[0]?.state, 'in-force');
});

test('a text that cannot be read leaves everything of its document as it was', () => {
  const { repository, open } = make();
  repository.put('kvstore', 'all', `${opens(80)}---\n${named(opens(81), 'q')}`);
  repository.put('kvstore', 'all', 'a: [');
  assert.deepEqual(open(), [80, 81]);
  assert.deepEqual(
    repository.list().map(({ state }) => state),
    ['last-good', 'last-good'],
  );
  repository.put('directory', 'new', ']');
  assert.deepEqual(states(repository).at(-1), 'directory:new directory:new invalid');
  assert.deepEqual(open(), [80, 81]);
});

test('one bad object does not hold up the others of its document', () => {
  const { repository, open } = make();
  repository.put('api', 'all', `${opens(80)}---\n${named(opens(81), 'q')}`);
  repository.put('api', 'all', `${BROKEN}---\n${named(opens(82), 'q')}`);
  assert.deepEqual(open(), [80, 82]);
});

test('what is missing beside an object without name stays in force: it may be that object', () => {
  const { repository, open } = make();
  repository.put('api', 'all', `${opens(80)}---\n${named(opens(81), 'q')}`);
  repository.put('api', 'all', `${opens(80).replace('name: p, ', '')}---\n${named(opens(81), 'q')}`);
  assert.deepEqual(open(), [80, 81]);
  repository.put('api', 'all', named(opens(81), 'q'));
  assert.deepEqual(open(), [81]);
});

test('of one object in several documents the kvstore wins over the API, and that over the directory', () => {
  for (const order of [
    [0, 1, 2],
    [2, 1, 0],
    [1, 2, 0],
  ]) {
    const { repository, open } = make();
    const puts = [
      () => repository.put('directory', 'a', opens(80)),
      () => repository.put('api', 'b', opens(81)),
      () => repository.put('kvstore', 'c', opens(82)),
    ];
    for (const index of order) puts[index]?.();
    assert.deepEqual(open(), [82]);
    const name = 'CiliumNetworkPolicy/shop/p';
    assert.deepEqual(states(repository), [
      `${name} kvstore:c in-force`,
      `${name} api:b shadowed`,
      `${name} directory:a shadowed`,
    ]);
    assert.match(repository.list()[0]?.messages.join() ?? '', /also in api:b/);
    assert.match(repository.list()[2]?.messages.join() ?? '', /not in force: kvstore:c holds the same object/);
    repository.remove('kvstore', 'c');
    assert.deepEqual(open(), [81]);
  }
});

test('a broken object does not push a good one of the same name aside', () => {
  const { repository, open } = make();
  repository.put('directory', 'a', opens(80));
  repository.put('kvstore', 'c', BROKEN);
  assert.deepEqual(open(), [80]);
});

test('the same object twice in one text: the first counts, and it is said', () => {
  const { repository, open } = make();
  repository.put('directory', 'a', `${opens(80)}---\n${opens(81)}`);
  assert.deepEqual(
    repository.list()[0]?.messages.filter((each) => /line 8: it stands here once more/.test(each)).length,
    1,
  );
  assert.deepEqual(open(), [80]);
});

test('a record shows rules, directions and what is held back; its time is that of its content', () => {
  const { repository, at } = make();
  const held = policy('ingress: [{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{}]}}]}]');
  repository.put('directory', 'a', held);
  at(5000);
  repository.put('directory', 'a', `# moved\n${held}`);
  const [entry] = repository.list();
  assert.deepEqual(
    { ...entry, messages: [] },
    {
      name: 'CiliumNetworkPolicy/shop/p',
      kind: 'CiliumNetworkPolicy',
      source: 'directory:a',
      state: 'in-force',
      rules: 1,
      selecting: true,
      directions: ['ingress'],
      audit: false,
      heldBack: 1,
      messages: [],
      since: 1000,
    },
  );
  assert.match(entry?.messages[0] ?? '', /line 7.*needs L7 proxy/);
  const rules = repository.get('CiliumNetworkPolicy/shop/p')?.rulesJson;
  assert.ok(Array.isArray(rules) && rules.length === 1);
  assert.equal(repository.get('nothing'), undefined);
});

test('a policy for others is known and not selecting', () => {
  const { repository, open } = make();
  repository.put('directory', 'a', opens(80).replace('app: db', 'app: other'));
  assert.equal(repository.list()[0]?.state, 'not-selecting');
  assert.deepEqual(open(), [80, 81, 82, 83]);
});

test('raw rules are named by their document, so that those of two sources stand beside each other', () => {
  const { repository, open } = make();
  const raw = (port: number) =>
    `[{endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: "${port}", protocol: TCP}]}]}]}]`;
  repository.put('directory', 'a', raw(80));
  repository.put('kvstore', 'a', raw(81));
  assert.deepEqual(open(), [80, 81]);
  assert.deepEqual(states(repository), [
    'Rules/directory:a directory:a in-force',
    'Rules/kvstore:a kvstore:a in-force',
  ]);
});

test('CIDR groups of documents serve the policies of others', () => {
  const { model, repository } = make();
  repository.put('directory', 'p', policy('ingress: [{fromCIDRSet: [{cidrGroupRef: g}]}]'));
  const group =
    '{apiVersion: cilium.io/v2alpha1, kind: CiliumCIDRGroup, metadata: {name: g}, spec: {externalCIDRs: [192.0.2.0/24]}}';
  repository.put('kvstore', 'g', group);
  assert.deepEqual([...model.resolved.prefixes.keys()], ['192.0.2.0/24']);
  repository.remove('kvstore', 'g');
  assert.equal(model.resolved.prefixes.size, 0);
});
