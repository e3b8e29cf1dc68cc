import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { SelfChecks } from '../../src/agent/serving/self-checks.ts';
import { readServing, servingFile, writeServing } from '../../src/agent/serving/serving-file.ts';
import { Thresholds } from '../../src/agent/serving/thresholds.ts';
import type { MachineService } from '../../src/kvstore/codec/machine-service.ts';
import type { CheckReport } from '../../src/kvstore/codec/serving-report.ts';
import { until } from '../lab/namespace.ts';

const folder = mkdtempSync(join(tmpdir(), 'mesh-serving-'));
after(() => rmSync(folder, { recursive: true }));

const healthy = (since: number): CheckReport => ({ healthy: true, since, reason: '' });
const failing = (since: number, reason: string): CheckReport => ({ healthy: false, since, reason });

function results(known: CheckReport | undefined, reasons: readonly (string | undefined)[], other = false) {
  const thresholds = new Thresholds({ rise: 2, fall: 3, known, other });
  return reasons.map((reason, index) => [thresholds.take(reason, 100 + index), thresholds.report]);
}

test('the first result counts at once, later ones when enough of them agree', () => {
  assert.deepEqual(
    results(undefined, [undefined, 'x', 'x', undefined, 'x', 'x', 'x', undefined, 'x', undefined, undefined]),
    [
      [true, healthy(100)],
      [false, healthy(100)],
      [false, healthy(100)],
      [false, healthy(100)],
      [false, healthy(100)],
      [false, healthy(100)],
      [true, failing(106, 'x')],
      [false, failing(106, 'x')],
      [false, failing(106, 'x')],
      [false, failing(106, 'x')],
      [true, healthy(110)],
    ],
  );
});

test('what an earlier run found counts until as many results say otherwise; another check counts at once', () => {
  assert.deepEqual(results(healthy(7), ['x', 'x', undefined])[2], [false, healthy(7)]);
  assert.deepEqual(results(healthy(7), ['x'], true)[0], [true, failing(100, 'x')]);
});

test('another reason is told, and since when it fails stays', () => {
  assert.deepEqual(results(failing(7, 'x'), ['y'])[0], [true, failing(7, 'y')]);
  assert.deepEqual(results(failing(7, 'x'), ['x'])[0], [false, failing(7, 'x')]);
});

const service = (name: string, checks: MachineService['checks']): [string, MachineService] => [
  `shop/${name}`,
  {
    uid: 'u',
    namespace: 'shop',
    name,
    ports: [{ name: '', protocol: 'TCP', port: 80, targetPort: 8080 }],
    selector: new Map([['app', name]]),
    global: false,
    shared: false,
    affinity: 'none',
    addresses: [],
    checks,
    timing: { interval: 1, timeout: 1, rise: 1, fall: 1 },
    created: 0,
    changed: 0,
  },
];

test('all checks of a service have to pass, on each address by itself; services without checks are not asked', async () => {
  const asked = new Set<string>();
  const checks = new SelfChecks({
    onChange: () => undefined,
    check: async ({ address, port, path }) => {
      asked.add(`${address} ${port} ${path ?? ''}`);
      return address === '2001:db8::1' && path !== undefined ? 'status 503' : undefined;
    },
  });
  const both = service('api', [
    { type: 'tcp', port: 8080 },
    { type: 'http', port: 8081, path: '/healthz' },
  ]);
  const addresses = new Map([
    [4 as const, '192.0.2.1'],
    [6 as const, '2001:db8::1'],
  ] as [4 | 6, string][]);
  checks.set(new Map([both, service('plain', [])]), addresses);
  await until('there are results', () => checks.reports().get('shop/api')?.size === 2);
  assert.equal(checks.reports().get('shop/api')?.get(4)?.healthy, true);
  assert.equal(checks.reports().get('shop/api')?.get(6)?.reason, 'http 8081/healthz: status 503');
  assert.equal(checks.reports().has('shop/plain'), false);
  assert.equal(asked.size, 4);
  checks.set(new Map(), addresses);
  assert.equal(checks.reports().size, 0);
  checks.close();
});

test('a hundred services are checked a few at once', async () => {
  let open = 0;
  let most = 0;
  const checks = new SelfChecks({
    onChange: () => undefined,
    async check() {
      most = Math.max(most, ++open);
      await new Promise((resolve) => setTimeout(resolve, 2));
      open--;
      return undefined;
    },
  });
  const many = Array.from({ length: 100 }, (_, index) => service(`s${index}`, [{ type: 'tcp', port: 1 }]));
  checks.set(new Map(many), new Map([[4, '192.0.2.1']]));
  await until('all have results', () => checks.reports().size === 100);
  assert.equal(most, 32);
  checks.close();
});

test('what must outlive a restart does, for its owner alone; what is no file of ours is told', async () => {
  const path = servingFile(folder);
  assert.deepEqual((await readServing(path)).drained, undefined);
  const state = { drained: 1_764_000_000_000, checks: new Map([['shop/api', new Map([[4 as const, healthy(5)]])]]) };
  await writeServing(path, state);
  assert.deepEqual(await readServing(path), state);
  assert.equal(statSync(path).mode & 0o777, 0o600);
  for (const text of ['', '{"version":2}', '{"version":1,"drained":"yes"}']) {
    writeFileSync(path, text);
    await assert.rejects(readServing(path), Error, text);
  }
});
