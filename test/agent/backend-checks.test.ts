import assert from 'node:assert/strict';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { afterEach, test } from 'node:test';
import {
  BackendChecks,
  MAX_CHECKED,
  MAX_OPEN,
  MAX_PER_TICK,
  type Probe,
} from '../../src/agent/services/backend-checks.ts';
import { CheckWheel, nextTurn, TICK_MS } from '../../src/agent/services/check-wheel.ts';
import { formatAddress, parseAddress } from '../../src/core/ip.ts';
import { type PortResult, tryPort } from '../../src/host/port-check.ts';
import type { CheckPlan, CheckTarget } from '../../src/service/result.ts';
import type { CheckSettings } from '../../src/service/settings.ts';
import { until } from '../lab/namespace.ts';

const TCP: CheckSettings = {
  type: 'tcp',
  path: '',
  port: undefined,
  intervalMs: 100,
  timeoutMs: 80,
  rise: 2,
  fall: 3,
};
const POOL = 'default/web global';

const ends: (() => void)[] = [];
afterEach(() => {
  for (const end of ends.splice(0)) end();
});

function target(port: number, text = '127.0.0.1'): CheckTarget {
  const address = parseAddress(text) ?? assert.fail(text);
  return { place: `${text} 6 ${port}`, address, port };
}

function plan(check: CheckSettings, ...targets: CheckTarget[]): CheckPlan {
  return { check, targets: new Map(targets.map((each) => [each.place, each])) };
}

async function listen<S extends Server>(server: S, host = '127.0.0.1'): Promise<number> {
  ends.push(() => server.close());
  server.on('connection', (socket) => socket.on('error', () => {}));
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  return (server.address() as AddressInfo).port;
}

const probeBackend: Probe = ({ address, port }, { timeoutMs }, signal) =>
  tryPort({ address: formatAddress(address), port, timeoutMs, signal });

/** Health as it was told, by place. */
function watch(probed: Probe): { checks: BackendChecks; told: (string | undefined)[] } {
  const told: (string | undefined)[] = [];
  const checks = new BackendChecks({ machine: 'vm', probe: probed, onHealth: (_pool, _place, why) => told.push(why) });
  ends.push(() => checks.close());
  return { checks, told };
}

test('thresholds decide: out after three failures in a row, in again after two passes', async () => {
  const results: PortResult[] = [
    ...(['answers', { failed: 'a' }, { failed: 'a' }, 'answers', { failed: 'a' }, { failed: 'b' }] as const),
    ...([
      { untried: 'x' },
      { failed: 'c' },
      { failed: 'c' },
      'answers',
      { failed: 'd' },
      'answers',
      'answers',
    ] as const),
  ];
  const { checks, told } = watch(() => Promise.resolve(results.shift() ?? 'answers'));
  checks.set(POOL, plan(TCP, target(80)));
  await until('all were tried', () => results.length === 0);
  await until('it is told', () => told.at(-1) === undefined && told.length >= 3);
  assert.deepEqual(told, ['c', 'd', undefined]);
});

test('a backend that never answered is out after one failure', async () => {
  const { checks, told } = watch(probeBackend);
  checks.set(POOL, plan({ ...TCP, intervalMs: 60_000, fall: 100 }, target(1)));
  await until('it is told', () => told.length > 0);
  assert.deepEqual(told, ['connection refused']);
});

test('a real server that stops and starts again leaves and comes back', async () => {
  const server = createServer();
  const port = await listen(server);
  const { checks, told } = watch(probeBackend);
  checks.set(POOL, plan(TCP, target(port)));
  await new Promise((resolve) => server.once('connection', resolve));
  server.close();
  await until('it is out', () => told.length === 1);
  const again = createServer();
  ends.push(() => again.close());
  again.listen(port, '127.0.0.1');
  await until('it is back', () => told.length === 2);
  assert.deepEqual(told, ['connection refused', undefined]);
});

test('what is not wanted any more is neither asked nor told, and what stays keeps its result', async () => {
  let asked = 0;
  const { checks, told } = watch(() => {
    asked++;
    return Promise.resolve({ failed: 'x' });
  });
  const [one, other] = [target(1), target(2)];
  checks.set(POOL, plan(TCP, one, other));
  await until('both are out', () => told.length === 2);
  const same = plan(TCP, one);
  checks.set(POOL, same);
  const before = asked;
  await until('it goes on', () => asked > before + 3);
  assert.equal(told.length, 2, 'it was not told again');
  checks.set(POOL, undefined);
  assert.deepEqual(checks.status, { checked: 0, unchecked: 0, waiting: 0 });
  const last = asked;
  await new Promise((resolve) => setTimeout(resolve, 5 * TICK_MS));
  assert.equal(asked, last);
});

test('thousands are spread over time: never more than so many open, or begun in a tick, and each has its turn', async () => {
  let open = 0;
  let most = 0;
  const seen = new Set<string>();
  const { checks } = watch(async ({ place }) => {
    most = Math.max(most, ++open);
    seen.add(place);
    await new Promise((resolve) => setTimeout(resolve, 400));
    open--;
    return 'answers';
  });
  const targets = Array.from({ length: 1500 }, (_, n) => target(n + 1));
  checks.set(POOL, plan({ ...TCP, intervalMs: 1000 }, ...targets));
  await until('all had their turn', () => seen.size === targets.length, 30_000);
  assert.ok(most <= MAX_OPEN, `${most} at once`);
  assert.ok(most > MAX_PER_TICK, 'the limit of a tick is not the one of all');
});

test('of more than can be checked the others are counted, and take the places that become free', () => {
  const { checks } = watch(() => new Promise(() => {}));
  const many = Array.from({ length: MAX_CHECKED + 10 }, (_, n) =>
    target((n % 65_000) + 1, n < 65_000 ? '10.0.0.1' : '10.0.0.2'),
  );
  checks.set('default/small global', plan(TCP, target(1), target(2)));
  checks.set(POOL, plan(TCP, ...many));
  assert.deepEqual(checks.status, { checked: MAX_CHECKED, unchecked: 12, waiting: 0 });
  checks.set('default/small global', undefined);
  assert.deepEqual(checks.status, { checked: MAX_CHECKED, unchecked: 10, waiting: 0 });
});

test('the wheel gives back what is due, in order, also after a pause, and each item has its own part of the interval', () => {
  const wheel = new CheckWheel<string>(0);
  wheel.add('late', 900_000);
  wheel.add('second', 120);
  wheel.add('first', 10);
  wheel.add('past', -500);
  assert.deepEqual(wheel.take(40), []);
  assert.deepEqual(wheel.take(60), ['first', 'past']);
  assert.deepEqual(wheel.take(800_000), ['second']);
  assert.deepEqual(wheel.take(900_000), ['late']);
  assert.deepEqual(
    [nextTurn(1000, { phase: 300, intervalMs: 1000 }), nextTurn(1300, { phase: 300, intervalMs: 1000 })],
    [1300, 2300],
  );
});
