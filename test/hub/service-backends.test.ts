import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type MachineRecord, SERVES_NOTHING } from '../../src/hub/registration/machine-record.ts';
import { backendsOf } from '../../src/hub/services/backends.ts';
import { publishedKey, publishedService } from '../../src/hub/services/publication.ts';
import { readService, readServiceRequest } from '../../src/hub/services/service-request.ts';
import { decodeService } from '../../src/kvstore/codec/service.ts';
import { type CheckReport, readReport, reportAnnotations } from '../../src/kvstore/codec/serving-report.ts';
import { selectsMachine } from '../../src/service/selection.ts';

const SERVICE = { namespace: 'shop', name: 'api', checks: [] };
const CHECKED = { ...SERVICE, checks: [{ type: 'tcp' as const, port: 8080 }] };
const WORKLOAD = { name: 'vm', uid: 'u1', revoked: undefined };
const RECORD: MachineRecord = {
  uid: 'u1',
  state: 'registered',
  since: 1000,
  lastSeen: 1000,
  session: undefined,
  identity: 6_553_600,
  addresses: ['192.0.2.1', '10.192.0.1', '2001:db8::1'],
  refused: [],
  claims: [],
  reason: undefined,
  agentVersion: '1.0.0',
  policyRevision: undefined,
  serving: { ...SERVES_NOTHING, addresses: ['192.0.2.1', '2001:db8::1'] },
};
const rows = (service: typeof CHECKED | typeof SERVICE, record: MachineRecord | undefined, workload = WORKLOAD) =>
  backendsOf(service, workload, record).map(({ address, state, since, reason }) => [address, state, since, reason]);
const serving = (more: Partial<MachineRecord['serving']>): MachineRecord => ({
  ...RECORD,
  serving: { ...RECORD.serving, ...more },
});

test('a machine is selected by its namespace and every label, and by nothing less', () => {
  const labels = new Map([
    ['app', 'api'],
    ['tier', 'front'],
  ]);
  const selects = (namespace: string, ...selector: [string, string][]): boolean =>
    selectsMachine({ namespace, selector: new Map(selector) }, { namespace: 'shop', labels });
  assert.equal(selects('shop', ['app', 'api']), true);
  assert.equal(selects('shop', ['app', 'api'], ['tier', 'front']), true);
  assert.equal(selects('shop', ['app', 'api'], ['tier', 'back']), false);
  assert.equal(selects('shop', ['zone', '']), false);
  assert.equal(selects('other', ['app', 'api']), false);
  assert.equal(selects('shop'), false);
});

test('without checks a registered machine serves on one address of each family, never on that of its router', () => {
  assert.deepEqual(rows(SERVICE, RECORD), [
    ['192.0.2.1', 'active', 1000, undefined],
    ['2001:db8::1', 'active', 1000, undefined],
  ]);
});

test('who is not there, drained, silent or unchecked is out, with the reason and since when', () => {
  const gone = { ...RECORD, state: 'expired' as const, since: 2000, reason: 'its registration ended' };
  assert.deepEqual(rows(SERVICE, undefined), [[undefined, 'no-answer', undefined, 'it never registered']]);
  assert.deepEqual(rows(SERVICE, { ...RECORD, uid: 'other' }), rows(SERVICE, undefined));
  assert.deepEqual(rows(SERVICE, gone), [[undefined, 'no-answer', 2000, 'its registration ended']]);
  assert.deepEqual(rows(SERVICE, RECORD, { ...WORKLOAD, revoked: 5 } as never), [
    [undefined, 'no-answer', 5, 'it is revoked'],
  ]);
  assert.deepEqual(rows(SERVICE, serving({ drained: 3000 }))[0], ['192.0.2.1', 'draining', 3000, 'it was drained']);
  assert.equal(rows(CHECKED, serving({ silent: 4000 }))[0]?.[3], 'it does not renew its lease');
  // Nobody asked to have it checked: its registration alone decides.
  assert.equal(rows(SERVICE, serving({ silent: 4000 }))[0]?.[1], 'active');
  // Drained goes first: that is what its operator wanted.
  assert.equal(rows(CHECKED, serving({ silent: 4000, drained: 3000 }))[0]?.[1], 'draining');
  assert.match(String(rows(CHECKED, RECORD)[0]?.[3]), /has not told/);
  assert.match(String(rows(CHECKED, { ...RECORD, agentVersion: undefined })[0]?.[3]), /does not check/);
});

test('of a service with checks each address counts by itself', () => {
  const checks = new Map([
    [
      'shop/api',
      new Map([
        [4 as const, { healthy: true, since: 1500, reason: '' }],
        [6 as const, { healthy: false, since: 1600, reason: 'tcp/8080: connection refused' }],
      ]),
    ],
  ]);
  assert.deepEqual(rows(CHECKED, serving({ checks })), [
    ['192.0.2.1', 'active', 1500, undefined],
    ['2001:db8::1', 'unhealthy', 1600, 'tcp/8080: connection refused'],
  ]);
});

test('what a machine reports is read as it was told, and of nonsense nothing is left', () => {
  const report = {
    drained: 1700,
    beat: 15,
    checks: new Map([
      [
        'shop/api',
        new Map<4 | 6, CheckReport>([[4, { healthy: false, since: 1600, reason: 'tcp/80: "odd" \u001b[31m' }]]),
      ],
      ['shop/web', new Map<4 | 6, CheckReport>([[6, { healthy: true, since: 1500, reason: '' }]])],
    ]),
  };
  const read = readReport(new Map(reportAnnotations(report)), 10_000);
  assert.equal(read.drained, 1700);
  assert.equal(read.checks.get('shop/api')?.get(4)?.reason, 'tcp/80: "odd" ?[31m');
  assert.deepEqual(read.checks.get('shop/web'), report.checks.get('shop/web'));
  // A time of the future would make a backend young for ever.
  assert.equal(readReport(new Map(reportAnnotations(report)), 1000).drained, 1000);
  const nonsense = ['{', '[]', '7', 'null', '{"a":7}', '{"a":{"4":[-1]}}', '{"a":{"4":["x"]}}', '{"a":{"5":[1]}}'];
  for (const text of [...nonsense, '{"a":{"4":[1,2]}}'])
    assert.equal(readReport(new Map([['mesh-agent.io/checks', text]]), 1).checks.size, 0, text);
  const many = Object.fromEntries(Array.from({ length: 5000 }, (_, index) => [`n/s${index}`, { 4: [1] }]));
  assert.equal(readReport(new Map([['mesh-agent.io/checks', JSON.stringify(many)]]), 1).checks.size, 256);
  // What a machine writes itself never makes its registration too long.
  const bad = new Map<4 | 6, CheckReport>([
    [4, { healthy: false, since: 1_764_000_000_000, reason: 'x'.repeat(160) }],
    [6, { healthy: false, since: 1_764_000_000_000, reason: 'x'.repeat(160) }],
  ]);
  const longest = (index: number): string => `${'n'.repeat(63)}/${'s'.repeat(59)}${1000 + index}`;
  const all = new Map(Array.from({ length: 256 }, (_, index) => [longest(index), bad]));
  const [[, text] = ['', '']] = reportAnnotations({ drained: undefined, beat: undefined, checks: all });
  assert.ok(text.length <= 32_768);
  assert.ok(readReport(new Map([['mesh-agent.io/checks', text]]), Date.now()).checks.size >= 128);
  assert.deepEqual(readReport(null, 1), { drained: undefined, checks: new Map(), beat: undefined });
});

const request = (more: object = {}) =>
  readService(
    readServiceRequest({ name: 'api', namespace: 'shop', ports: ['80:8080/tcp'], selector: { a: 'b' }, ...more }),
  );
const full = (more: object = {}) => ({ ...request(more).spec, uid: '', created: 0, changed: 0 });

test('what is published is a ClusterService to the letter', () => {
  const service = full({ ports: ['web=80:8080', 'dns=53/udp'], global: true, addresses: ['10.193.0.1'] });
  const cluster = { name: 'vms', id: 100 };
  assert.equal(publishedKey('vms', service), 'cilium/state/services/v1/vms/shop/api');
  const { value, omitted } = publishedService(service, { cluster, active: ['192.0.2.1', '2001:db8::1'] });
  const ports = '{"dns":{"Protocol":"UDP","Port":53},"web":{"Protocol":"TCP","Port":8080}}';
  assert.equal(
    value,
    `{"cluster":"vms","namespace":"shop","name":"api","frontends":{"10.193.0.1":{"dns":{"Protocol":"UDP","Port":53},"web":{"Protocol":"TCP","Port":80}}},"backends":{"192.0.2.1":${ports},"2001:db8::1":${ports}},"hostnames":{},"labels":{},"selector":{"a":"b"},"includeExternal":true,"shared":true,"clusterID":100}`,
  );
  assert.equal(omitted, 0);
  const read = decodeService('shop/api', Buffer.from(value), { cluster: 'vms', clusterId: 100 });
  assert.deepEqual([...read.backends.keys()], ['192.0.2.1', '2001:db8::1']);
});

test('more backends than one value holds are left out from the end, and counted', () => {
  const active = Array.from({ length: 1000 }, (_, index) => `10.0.${index >> 8}.${index & 255}`);
  const { value, omitted } = publishedService(full(), { cluster: { name: 'vms', id: 1 }, active, maxBytes: 10_000 });
  assert.ok(value.length <= 10_000 && value.length > 5000);
  const read = decodeService('shop/api', Buffer.from(value), { cluster: 'vms', clusterId: 1 });
  assert.equal(read.backends.size + omitted, 1000);
  assert.ok(read.backends.has('10.0.0.0'));
});

test('scope: global is shared, shared is global, and only what is global can be kept from the clusters', () => {
  const scope = (more: object): boolean[] => [request(more).spec.global, request(more).spec.shared];
  assert.deepEqual(scope({}), [false, false]);
  assert.deepEqual(scope({ global: true }), [true, true]);
  assert.deepEqual(scope({ shared: true }), [true, true]);
  assert.deepEqual(scope({ global: true, shared: false }), [true, false]);
  assert.deepEqual(scope({ shared: false }), [false, false]);
});

test('ports and checks in the words of the command line', () => {
  const { spec, findings } = request({
    ports: ['web=80:8080/tcp', 'dns=53/UDP'],
    checks: ['tcp', 'tcp:9000', 'http:/healthz', 'http:8081/a?b=c'],
    interval: 1,
  });
  assert.deepEqual(findings, []);
  assert.deepEqual(spec.checks, [
    { type: 'tcp', port: 8080 },
    { type: 'tcp', port: 9000 },
    { type: 'http', port: 8080, path: '/healthz' },
    { type: 'http', port: 8081, path: '/a?b=c' },
  ]);
  assert.deepEqual(spec.timing, { interval: 1, timeout: 1, rise: 2, fall: 3 });
});

test('all that is wrong with a request is found at once', () => {
  const { findings } = request({
    name: 'API',
    ports: ['http', '80/icmp', '99999'],
    selector: {},
    affinity: 'near',
    checks: ['exec:rm', 'tcp'],
    addresses: ['10.0.0.300'],
  });
  assert.deepEqual(
    findings.map(({ field }) => field),
    ['ports[0]', 'ports[1]', 'checks[0]', 'affinity', 'name', 'ports[2]', 'selector', 'addresses', 'checks[1]'],
  );
  const noTcp = request({ ports: ['53/udp'], checks: ['http:/'] }).findings;
  assert.match(noTcp[0]?.message ?? '', /no TCP port/);
});
