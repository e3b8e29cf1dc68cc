import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { CheckRecord } from '../../src/api/doctor-types.ts';
import { ERROR_CODES, type ErrorCode, MeshError } from '../../src/core/errors.ts';
import { parsePrefix } from '../../src/core/ip.ts';
import { consequencesOf, orderByCause } from '../../src/doctor/causes.ts';
import { judgeHub } from '../../src/doctor/mesh/hub.ts';
import { judgeRanges } from '../../src/doctor/mesh/ranges.ts';
import { runChecks } from '../../src/doctor/run-checks.ts';
import { judgeStore } from '../../src/doctor/store/judge-store.ts';

const NOW = Date.parse('2026-11-25T12:00:00Z');

function finding(code: ErrorCode, subject = '', verdict: CheckRecord['verdict'] = 'error'): CheckRecord {
  return { group: 'stores', check: 'x', subject, verdict, code, text: code, remedy: ERROR_CODES[code].remedy };
}

const shown = (records: readonly CheckRecord[]): string[] =>
  orderByCause(records).map(
    ({ code, subject, because }) => `${code} ${subject}${because ? ` <- ${because.code}` : ''}`,
  );

test('a cause comes before what follows from it, in whatever order they were found', () => {
  const records = [
    finding('MSH-STALE', 'cluster-b', 'warning'),
    finding('KVS-TIMEOUT', 'cluster-b https://x'),
    finding('HST-FIREWALL', 'cluster-b'),
  ];
  const expected = [
    'HST-FIREWALL cluster-b',
    'KVS-TIMEOUT cluster-b https://x <- HST-FIREWALL',
    'MSH-STALE cluster-b <- KVS-TIMEOUT',
  ];
  assert.deepEqual(shown(records), expected);
  assert.deepEqual(shown(records.toReversed()), expected);
});

test('what is wrong with one cluster does not explain another one', () => {
  const found = shown([finding('KVS-DNS', 'cluster-a'), finding('MSH-INCOMPLETE', 'cluster-b')]);
  assert.ok(found.includes('MSH-INCOMPLETE cluster-b'));
});

test('a warning that explains an error comes before an error of its own that lies further down', () => {
  const found = shown([
    finding('POL-CLUSTER', 'x'),
    finding('KVS-HEARTBEAT', 'cluster-b', 'warning'),
    finding('MSH-INCOMPLETE', 'cluster-b'),
  ]);
  assert.equal(found[0], 'KVS-HEARTBEAT cluster-b');
});

test('what has not happened yet explains nothing', () => {
  const found = shown([finding('CFG-CERTIFICATE', '', 'warning'), finding('KVS-TLS-CLIENT', 'cluster-a')]);
  assert.deepEqual(found, ['KVS-TLS-CLIENT cluster-a', 'CFG-CERTIFICATE ']);
});

test('every code that explains others, together with all of them, is ordered without a circle', () => {
  const known = (code: string): code is ErrorCode => Object.hasOwn(ERROR_CODES, code);
  for (const code of Object.keys(ERROR_CODES).filter(known)) {
    const all = new Set([code, ...consequencesOf(code).filter(known)]);
    for (const each of all) for (const further of consequencesOf(each).filter(known)) all.add(further);
    const ordered = orderByCause([...all].map((each) => finding(each)));
    const place = new Map(ordered.map((each, index) => [each.code, index] as const));
    for (const { code: effect, because } of ordered)
      if (because !== undefined) assert.ok((place.get(because.code) ?? 0) < (place.get(effect) ?? 0), `${effect}`);
  }
});

test('a check that hangs, and one that throws, are findings, and hold up nobody', async () => {
  const check = { group: 'machine', title: 'it' } as const;
  const records = await runChecks(
    [
      { ...check, name: 'hangs', look: () => new Promise(() => undefined) },
      {
        ...check,
        name: 'throws',
        look: () => {
          throw new Error('no');
        },
      },
      {
        ...check,
        name: 'fine',
        look: () => [{ group: 'machine', check: 'fine', subject: '', verdict: 'ok', text: '' }],
      },
    ],
    { checkMs: 100, totalMs: 1000, width: 1 },
  );
  assert.deepEqual(
    records.map(({ check: name, verdict, code }) => [name, verdict, code]),
    [
      ['hangs', 'warning', 'DOC-SLOW'],
      ['throws', 'error', 'DOC-FAILED'],
      ['fine', 'ok', undefined],
    ],
  );
});

test('the clock of a hub tells ours apart, and a version of another line is said', () => {
  const hub = { url: 'https://hub:8443', before: NOW, after: NOW + 200, time: NOW, version: '1.2.3' };
  const codes = (over: Partial<typeof hub>, own = '1.2.9'): string[] =>
    judgeHub([{ ...hub, ...over }], own).map(({ code, text }) => `${code ?? 'ok'} ${text}`);
  assert.match(codes({})[0] ?? '', /^ok/);
  assert.match(codes({ time: NOW - 3_600_000 })[0] ?? '', /^HST-CLOCK .*3599 s ahead of/);
  assert.match(codes({ time: NOW + 3_600_000 })[0] ?? '', /^HST-CLOCK .*3600 s behind/);
  assert.match(codes({}, '1.3.0')[0] ?? '', /^AGT-VERSION/);
  const failure = new MeshError('JOIN-UNREACHABLE', 'no');
  assert.equal(judgeHub([{ ...hub, failure }, hub], '1.2.0')[0]?.verdict, 'warning');
});

test('endpoints of different etcd clusters are no store, and one bad endpoint of two is a warning', () => {
  const store = { name: 'cluster-b', joined: false, etcd: { endpoints: [] } };
  const good = { endpoint: 'https://a', host: 'a', port: 1, addresses: [], clusterId: '1' };
  const codes = (endpoints: Parameters<typeof judgeStore>[0]['endpoints']): string[] =>
    judgeStore({ store, endpoints, now: NOW }).map(({ code, verdict }) => `${verdict} ${code ?? ''}`);
  assert.deepEqual(codes([good, { ...good, endpoint: 'https://b', clusterId: '2' }]), ['error KVS-MIXED']);
  const failure = new MeshError('KVS-REFUSED', 'no');
  assert.deepEqual(codes([good, { ...good, failure }]), ['warning KVS-REFUSED']);
  assert.deepEqual(codes([{ ...good, failure }]), ['error KVS-REFUSED']);
});

test('ranges of clusters that overlap are told once for two clusters, however many nodes have them', () => {
  const wide = parsePrefix('10.0.0.0/8') ?? assert.fail();
  const inner = parsePrefix('10.7.0.0/16') ?? assert.fail();
  const ranges = Array.from({ length: 200_000 }, (_, node) => ({
    prefix: node % 2 === 0 ? wide : inner,
    cluster: node % 2 === 0 ? 'a' : 'b',
    node: `node-${node}`,
  }));
  const found = judgeRanges({ ranges, networks: [], own: [] });
  assert.deepEqual(
    found.map(({ text }) => text),
    ['10.0.0.0/8 of a (node node-0) and 10.7.0.0/16 of b (node node-1) overlap'],
  );
});
