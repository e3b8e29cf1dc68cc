import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { NameFeed } from '../../src/agent/name-feed.ts';
import { Health } from '../../src/api/health.ts';
import { connectionPeers } from '../../src/host/connections.ts';
import { silentLog } from '../../src/observe/log.ts';
import { address, modelWith } from '../policy/build.ts';

const root = mkdtempSync(join(tmpdir(), 'mesh-names-'));
after(() => rmSync(root, { recursive: true, force: true }));

const POLICY = `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: shop}
spec:
  endpointSelector: {}
  egress: [{toFQDNs: [{matchPattern: "*.a.io"}]}]
`;

function open(content?: unknown) {
  const stateDir = mkdtempSync(join(root, 'state-'));
  const file = join(stateDir, 'names.json');
  if (content !== undefined) writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(content));
  const model = modelWith(POLICY);
  const health = new Health(() => undefined);
  const changes = { count: 0 };
  const feed = new NameFeed({
    stateDir,
    fqdn: () => ({ minTtl: 0, grace: 0 }),
    model,
    health,
    log: silentLog,
    livePeers: connectionPeers,
    hear: () => undefined,
    onChange: () => {
      changes.count++;
    },
  });
  return { feed, model, health, file, changes };
}

const later = Date.now() + 600_000;

test('names of an earlier run count again, those that are over do not', async () => {
  const { feed, model, changes } = open({
    version: 1,
    names: [
      { name: 'x.a.io', addresses: [{ address: '192.0.2.1', until: later }] },
      { name: 'y.a.io', addresses: [{ address: '192.0.2.2', until: Date.now() - 1 }] },
    ],
  });
  await feed.restore();
  const [record, ...more] = feed.list();
  assert.deepEqual([record?.name, record?.addresses.length, more.length], ['x.a.io', 1, 0]);
  assert.equal(record?.addresses[0]?.address, '192.0.2.1');
  assert.ok(Math.abs((record?.addresses[0]?.until ?? 0) - later) < 1000);
  assert.deepEqual(feed.namesOf(address('192.0.2.1')), ['x.a.io']);
  assert.deepEqual([...model.resolved.prefixes.keys()], ['192.0.2.1/32']);
  assert.ok(changes.count > 0);
  await feed.close();
});

test('only names that a rule asks for are kept, for nobody else to read', async () => {
  const entry = (name: string) => ({ name, addresses: [{ address: '192.0.2.1', until: later }] });
  const { feed, file } = open({ version: 1, names: [entry('x.a.io'), entry('other.io')] });
  await feed.restore();
  await feed.close();
  assert.equal(statSync(file).mode & 0o777, 0o600);
  const kept = JSON.parse(readFileSync(file, 'utf8')) as { names: { name: string }[] };
  assert.deepEqual(
    kept.names.map(({ name }) => name),
    ['x.a.io'],
  );
});

test('a file that makes no sense opens nothing and stops nothing', async () => {
  const good = { name: 'x.a.io', addresses: [{ address: '192.0.2.1', until: later }] };
  for (const content of [
    '',
    'null',
    '[]',
    '{"version": 2, "names": []}',
    '{"version": 1, "names": {}}',
    '\u0000\u0001',
    { version: 1, names: [null, 7, 'x', {}, { name: 7, addresses: [] }, { name: 'x.a.io' }] },
    { version: 1, names: [{ name: 'x.a.io', addresses: [null, 7] }] },
    { version: 1, names: [{ name: 'x.a.io', addresses: [{ address: 'everywhere', until: later }] }] },
    { version: 1, names: [{ name: 'x.a.io', addresses: [{ address: '192.0.2.1', until: '1e99' }] }] },
    `{"version": 1, "names": [{"name": "x.a.io", "addresses": [{"address": "0.0.0.0/0", "until": 1e308}]}]}`,
  ]) {
    const { feed, model } = open(content);
    await feed.restore();
    assert.deepEqual([...model.resolved.prefixes.keys()], [], JSON.stringify(content));
    await feed.close();
  }
  // One bad record does not take the others with it.
  const { feed } = open({ version: 1, names: [null, good] });
  await feed.restore();
  assert.deepEqual(
    feed.list().map(({ name }) => name),
    ['x.a.io'],
  );
  await feed.close();
});

test('a file that is none of ours is told; no file at all is no trouble', async () => {
  const bad = open('{');
  await bad.feed.restore();
  assert.deepEqual(
    bad.health.list().map(({ code, severity }) => [code, severity]),
    [['AGT-STATE', 'warning']],
  );
  await bad.feed.close();
  const none = open();
  await none.feed.restore();
  assert.deepEqual(none.health.list(), []);
  await none.feed.close();
});
