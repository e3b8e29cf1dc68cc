import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  decodeMachineService,
  encodeMachineService,
  findingsOfService,
  type MachineService,
} from '../../src/kvstore/codec/machine-service.ts';

const SERVICE: MachineService = {
  uid: '4b1c5f5e-0000-4000-8000-000000000001',
  namespace: 'production',
  name: 'api',
  ports: [
    { name: 'http', protocol: 'TCP', port: 80, targetPort: 8080 },
    { name: 'dns', protocol: 'UDP', port: 53, targetPort: 53 },
  ],
  selector: new Map([['app', 'api']]),
  global: true,
  shared: true,
  affinity: 'local',
  addresses: ['10.193.0.1', 'fd00:193::1'],
  checks: [
    { type: 'tcp', port: 8080 },
    { type: 'http', port: 8080, path: '/healthz?full=1' },
  ],
  timing: { interval: 5, timeout: 2, rise: 2, fall: 3 },
  created: 1_764_000_000_000,
  changed: 1_764_000_001_000,
};
const KEY = 'production/api';

test('what is written is read back as it was', () => {
  assert.deepEqual(decodeMachineService(KEY, Buffer.from(encodeMachineService(SERVICE))), SERVICE);
  assert.deepEqual(findingsOfService(SERVICE), []);
});

test('everything that is wrong is told at once, each with its field', () => {
  const found = findingsOfService({
    ...SERVICE,
    name: '9-Api',
    namespace: 'Prod',
    ports: [
      { name: '', protocol: 'TCP', port: 0, targetPort: 70_000 },
      { name: 'b', protocol: 'TCP', port: 80, targetPort: 80 },
      { name: 'b', protocol: 'TCP', port: 80, targetPort: 81 },
    ],
    selector: new Map([['a b', 'x']]),
    global: false,
    addresses: ['10.0.0.1', '10.0.0.2', '010.0.0.3'],
    checks: [
      { type: 'tcp', port: 0 },
      { type: 'http', port: 80, path: 'healthz' },
    ],
    timing: { interval: 5, timeout: 6, rise: 0, fall: 11 },
  });
  assert.deepEqual(
    found.map(({ field }) => field),
    [
      'name',
      'namespace',
      ...['ports[0]', 'ports[0]', 'ports[0]', 'ports[2]', 'ports[2]'],
      'selector',
      'shared',
      ...['addresses', 'addresses'],
      ...['checks[0]', 'checks[1]'],
      ...['timeout', 'rise', 'fall'],
    ],
  );
});

test('no more of anything than is bounded', () => {
  const port = (index: number) => ({ name: `p${index}`, protocol: 'TCP' as const, port: index + 1, targetPort: 80 });
  const many = findingsOfService({
    ...SERVICE,
    ports: Array.from({ length: 33 }, (_, index) => port(index)),
    selector: new Map(Array.from({ length: 17 }, (_, index) => [`k${index}`, 'v'])),
    checks: Array.from({ length: 9 }, () => ({ type: 'tcp' as const, port: 80 })),
  });
  assert.deepEqual(
    many.map(({ field }) => field),
    ['ports', 'selector', 'checks'],
  );
});

test('a value of the store that is not exactly one is refused, and nothing but a bad value is thrown', () => {
  const good = JSON.parse(encodeMachineService(SERVICE)) as Record<string, unknown>;
  const bad: [string, unknown, RegExp][] = [
    ['version', 2, /version 2/],
    ['uid', 7, /uid is no string/],
    ['ports', {}, /ports is no list/],
    ['ports', [null], /ports is no object/],
    ['ports', [{ name: '', protocol: 'ICMP', port: 1, targetPort: 1 }], /protocol "ICMP"/],
    ['selector', { app: 1 }, /selector.app/],
    ['selector', {}, /one label at least/],
    ['affinity', 'near', /affinity/],
    ['addresses', ['x'], /no address/],
    ['checks', [{ type: 'exec', port: 1 }], /type "exec"/],
    ['checks', [{ type: 'http', port: 1, path: '/a b' }], /no path/],
    ['timing', { interval: '5' }, /no number/],
    ['created', 'yesterday', /created is no time/],
    ['owner', 'me', /unknown field "owner"/],
    ['name', 'other', /not the key/],
  ];
  for (const [field, value, message] of bad) {
    const text = JSON.stringify({ ...good, [field]: value });
    assert.throws(() => decodeMachineService(KEY, Buffer.from(text)), { message }, field);
  }
  for (const text of ['', '[]', 'null', '{', `"${'x'.repeat(70_000)}"`])
    assert.throws(() => decodeMachineService(KEY, Buffer.from(text)), /./, text.slice(0, 10));
});
