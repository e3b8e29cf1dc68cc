import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { PolicyBook } from '../../src/hub/policies/policy-book.ts';
import { PolicyKeeper } from '../../src/hub/policies/policy-keeper.ts';
import { encodeMachineRecord, SERVES_NOTHING } from '../../src/hub/registration/machine-record.ts';
import { openWriterStore, type WriterStore } from '../../src/kvstore/writer-store.ts';
import { parsePolicies } from '../../src/policy/language/parse.ts';
import { runHere } from '../cli/run-here.ts';
import { contentOf } from '../kvstore/mirror.ts';
import { Etcd } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { HubProcess } from './hub-process.ts';

const PREFIX = 'mesh-agent/v1/policies/';
const WEB = `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}]}]
`;
const DENY = `
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: deny.all}
spec:
  endpointSelector: {}
  ingress: []
`;
const BAD = WEB.replace('name: web', 'name: bad').replace('port: "80"', 'port: "70000"');

let etcd: Etcd;
let store: WriterStore;

before(async () => {
  etcd = await Etcd.start();
});
after(() => etcd.close());
beforeEach(() => {
  store = openWriterStore({
    etcd: async () => ({ endpoints: etcd.endpoints }),
    timing: { retryMinMs: 50, retryMaxMs: 300 },
  });
});
afterEach(async () => {
  await etcd.ctl('del', '--prefix', 'mesh-agent/');
  await store.close();
});

const text = (...texts: string[]) => texts.map((each, index) => ({ name: `${index}.yaml`, text: each }));

test('each object becomes a document of its own, under a stable name, that a machine reads as the same policy', async () => {
  const book = new PolicyBook(store);
  const applied = await book.apply(text(`${WEB}---${DENY}`));
  assert(applied.kind === 'HubPolicyApplied');
  assert.deepEqual(
    applied.items.map(({ name, document, change }) => [name, document, change]),
    [
      ['CiliumNetworkPolicy/default/web', 'ciliumnetworkpolicy.default.web', 'created'],
      ['CiliumClusterwideNetworkPolicy/deny.all', 'ciliumclusterwidenetworkpolicy..deny.all', 'created'],
    ],
  );
  assert.equal(new Set(applied.items.map(({ revision }) => revision)).size, 1, 'one change');
  const documents = await contentOf(etcd, PREFIX);
  assert.deepEqual([...documents.keys()].sort(), [
    'ciliumclusterwidenetworkpolicy..deny.all',
    'ciliumnetworkpolicy.default.web',
  ]);
  const rules = (given: string): unknown =>
    parsePolicies(given).objects.map(
      (object) => object.type === 'policy' && [object.policy, object.rules.length, object.rules[0]?.ingress],
    );
  const stripped = (value: unknown): string =>
    JSON.stringify(value, (key, field) => (key === 'line' ? undefined : field));
  assert.equal(stripped(rules(documents.get('ciliumnetworkpolicy.default.web') ?? '')), stripped(rules(WEB)));
  const again = await book.apply(text(DENY, WEB));
  assert(again.kind === 'HubPolicyApplied');
  assert.deepEqual(
    again.items.map(({ change }) => change),
    ['unchanged', 'unchanged'],
  );
  const changed = await book.apply(text(WEB.replace('"80"', '"81"')));
  assert(changed.kind === 'HubPolicyApplied');
  assert.deepEqual(
    changed.items.map(({ change }) => change),
    ['changed'],
  );
  assert.match((await book.get('CiliumNetworkPolicy/default/web')).text, /"81"/);
  assert.match((await book.get('web')).text, /"81"/);
  assert.equal((await book.delete('deny.all')).items[0]?.change, 'deleted');
  await assert.rejects(book.delete('deny.all'), { code: 'HUB-POLICY-UNKNOWN' });
  assert.deepEqual([...(await contentOf(etcd, PREFIX)).keys()], ['ciliumnetworkpolicy.default.web']);
});

test('one bad object, a name twice, or none: nothing at all is changed, and the place is named', async () => {
  const book = new PolicyBook(store);
  const refused = async (...texts: string[]): Promise<string> => {
    const answer = await book.apply(text(...texts));
    assert(answer.kind === 'PolicyValidation');
    assert.equal(answer.ok, false);
    return answer.items
      .filter(({ severity }) => severity === 'error')
      .map(({ file, line, path, message }) => `${file}:${line} ${path ?? ''} ${message}`)
      .join('\n');
  };
  assert.match(await refused(WEB, `${DENY}---${BAD}`), /^1\.yaml:\d+ spec\.ingress\[0\]\.toPorts\[0\]\.ports\[0\]/);
  assert.match(await refused(WEB, WEB), /1\.yaml:\d+ {2}it is there twice/);
  assert.match(await refused(`- endpointSelector: {}\n  ingress: [{}]\n`), /rules alone have no name/);
  assert.match(await refused(WEB.replace('name: web', 'name: ../leader')), /is no DNS name/);
  assert.match(await refused(WEB.replace('namespace: default', 'namespace: a.b')), /is no DNS label/);
  assert.match(await refused(WEB, '{'), /1\.yaml:/);
  assert.match(await refused('kind: ConfigMap\nmetadata: {name: x}\n'), /unknown kind/);
  assert.equal((await contentOf(etcd, PREFIX)).size, 0);
  const large = WEB.replace('metadata: {', `metadata: {annotations: {a: "${'x'.repeat(1_100_000)}"}, `);
  await assert.rejects(book.apply(text(large)), { code: 'HUB-POLICY' });
  const many = Array.from({ length: 101 }, (_, index) => DENY.replace('deny.all', `deny-${index}`)).join('---');
  await assert.rejects(book.apply(text(many)), { code: 'HUB-POLICY' });
  assert.equal((await contentOf(etcd, PREFIX)).size, 0);
});

test('two who change the same policy at once: one of them is told', async () => {
  await new PolicyBook(store).apply(text(WEB));
  // The other one writes between the reading and the writing.
  const slow = new PolicyBook({
    readPrefix: (prefix) => store.readPrefix(prefix),
    read: (key) => store.read(key),
    transact: async (transaction) => {
      await new PolicyBook(store).apply(text(WEB.replace('"80"', '"82"')));
      return store.transact(transaction);
    },
  });
  await assert.rejects(slow.apply(text(WEB.replace('"80"', '"83"'))), { code: 'HUB-CONFLICT' });
  assert.match((await new PolicyBook(store).get('web')).text, /"82"/);
});

test('the list says which machines have the present set', async () => {
  const book = new PolicyBook(store);
  await book.apply(text(WEB, DENY));
  const { revision } = await book.list();
  const machine = (policyRevision: string | undefined, state: 'registered' | 'revoked' = 'registered') => ({
    ...{ uid: 'u', state, since: 1, lastSeen: 1, identity: 1, addresses: [], refused: [], claims: [] },
    ...{ session: undefined, reason: undefined, agentVersion: undefined, policyRevision, serving: SERVES_NOTHING },
  });
  await store.put('mesh-agent/v1/registrations/a', encodeMachineRecord(machine(revision)));
  await store.put('mesh-agent/v1/registrations/b', encodeMachineRecord(machine('1-1')));
  await store.put('mesh-agent/v1/registrations/c', encodeMachineRecord(machine(undefined)));
  await store.put('mesh-agent/v1/registrations/d', encodeMachineRecord(machine(revision, 'revoked')));
  await store.put('mesh-agent/v1/registrations/e', 'garbage');
  assert.deepEqual((await book.list()).machines, [
    { workload: 'a', revision, current: true },
    { workload: 'b', revision: '1-1', current: false },
    { workload: 'c', revision: null, current: false },
  ]);
  await book.delete('deny.all');
  const after = await book.list();
  assert.notEqual(after.revision, revision, 'a removal is another set, too');
  assert.equal(after.machines[0]?.current, false);
});

test('policies that the store lost are put back; a store that came back with others, or lost nothing, is believed', async () => {
  const leader = { transact: (transaction: Parameters<WriterStore['transact']>[0]) => store.transact(transaction) };
  const keeper = new PolicyKeeper(store);
  await new PolicyBook(store).apply(text(WEB, DENY));
  await until('it knows them', () => keeper.size === 2);
  const before = await contentOf(etcd, PREFIX);
  await etcd.reset();
  await until('the loss is seen', () => keeper.size === 0, 20_000);
  assert.equal(await keeper.restore(leader), 2);
  assert.deepEqual([...(await contentOf(etcd, PREFIX))].sort(), [...before].sort());
  await until('it knows them again', () => keeper.size === 2);
  assert.equal(await keeper.restore(leader), 0, 'once');
  // Deleted by hand: no loss.
  await etcd.ctl('del', '--prefix', PREFIX);
  await until('it sees that', () => keeper.size === 0);
  assert.equal(await keeper.restore(leader), 0);
  await new PolicyBook(store).apply(text(WEB, DENY));
  await until('it knows them', () => keeper.size === 2);
  // Another data set with a policy of its own.
  await etcd.reset();
  await etcd.put(`${PREFIX}ciliumnetworkpolicy.default.other`, '{}');
  await until('the loss is seen', () => keeper.size === 1, 20_000);
  assert.equal(await keeper.restore(leader), 0);
  assert.equal((await contentOf(etcd, PREFIX)).size, 1);
  keeper.close();
});

test('policies are applied, listed, shown and deleted by the command line', async () => {
  process.env.MESH_TEST_HUB_PARTS = 'all';
  const folder = mkdtempSync(join(tmpdir(), 'mesh-policies-'));
  const hub = await HubProcess.make();
  const run = (...args: string[]) => runHere(['hub', 'policy', ...args, '--socket', hub.socket]);
  try {
    await hub.run();
    writeFileSync(join(folder, 'web.yaml'), WEB);
    writeFileSync(join(folder, 'deny.yaml'), DENY);
    writeFileSync(join(folder, 'bad.txt'), BAD);
    const applied = await run('apply', '-f', folder);
    assert.deepEqual(
      [applied.code, applied.stdout],
      [0, 'CiliumClusterwideNetworkPolicy/deny.all created\nCiliumNetworkPolicy/default/web created\n'],
      applied.stderr,
    );
    const bad = await run('apply', '-f', join(folder, 'bad.txt'));
    assert.equal(bad.code, 1);
    assert.match(bad.stdout, /bad\.txt:9: .*: error: .*\nNothing was changed\.\n$/s);
    const list = await run('list');
    assert.match(
      list.stdout,
      /^Name +Source +Document +Revision +Bytes\nCiliumClusterwideNetworkPolicy\/deny\.all +hand +cilium/,
    );
    assert.match(list.stdout, /\nRevision \d+-2: applied by 0 of 0 machines\n$/);
    assert.match((await run('get', 'web')).stdout, /^\{\n {2}"apiVersion": "cilium\.io\/v2"/);
    assert.equal(
      (await run('delete', 'CiliumNetworkPolicy/default/web')).stdout,
      'CiliumNetworkPolicy/default/web deleted\n',
    );
    assert.equal((await run('delete', 'web')).code, 1);
  } finally {
    await hub.close();
    rmSync(folder, { recursive: true, force: true });
  }
});
