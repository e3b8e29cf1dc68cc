import assert from 'node:assert/strict';
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { type JoinFiles, joinFiles } from '../../src/agent/join/files.ts';
import { joinHub } from '../../src/agent/join/join.ts';
import { Renewal, type RenewalOptions } from '../../src/agent/join/renewal.ts';
import { Health } from '../../src/api/health.ts';
import { registerKey } from '../../src/kvstore/paths.ts';
import { silentLog } from '../../src/observe/log.ts';
import { EnrolmentLab } from '../hub/enrolment-lab.ts';
import { until } from '../lab/namespace.ts';

const LIFE_SECONDS = 8;
let lab: EnrolmentLab;
const stops: AbortController[] = [];

before(async () => {
  lab = await EnrolmentLab.start({ certificateSeconds: LIFE_SECONDS, limits: { refusals: 10_000 } });
});
after(async () => {
  for (const stop of stops) stop.abort();
  await lab?.close();
});

async function joined(name: string, hub = lab): Promise<JoinFiles> {
  await hub.workload(name);
  const { token } = await hub.token(name);
  const stateDir = join(lab.place(), 'state');
  const configFile = join(stateDir, '../etc/config.yaml');
  mkdirSync(dirname(configFile));
  await joinHub({ stateDir, configFile, token });
  return joinFiles(stateDir, configFile);
}

function renew(
  files: JoinFiles,
  more: Partial<RenewalOptions> = {},
): { renewal: Renewal; health: Health; done: Promise<void> } {
  const health = new Health(() => {});
  const renewal = new Renewal({
    files,
    health,
    log: silentLog,
    onChange: () => {},
    lookMs: 50,
    timeoutMs: 2000,
    ...more,
  });
  const stop = new AbortController();
  stops.push(stop);
  return { renewal, health, done: renewal.run(stop.signal) };
}

const certificateOf = (files: JoinFiles): X509Certificate => new X509Certificate(readFileSync(files.cert));

test('a certificate is renewed over and over, before it ends, and the machine keeps its rights', async () => {
  const files = await joined('life-1');
  const first = certificateOf(files);
  const key = readFileSync(files.key, 'utf8');
  const { renewal, health } = renew(files);
  await until('two renewals', () => (renewal.status?.renewals ?? 0) >= 2, 40_000);
  assert.deepEqual(health.list(), []);
  const now = certificateOf(files);
  assert.notEqual(now.serialNumber, first.serialNumber);
  assert.ok(now.validToDate > first.validToDate);
  assert.equal(readFileSync(files.key, 'utf8'), key);
  assert.ok(now.checkPrivateKey(createPrivateKey(key)));
  assert.equal(renewal.status?.serial, now.serialNumber);
  await lab.machine({ cert: readFileSync(files.cert, 'utf8'), key }).put(registerKey('life-1'), 'still here');
});

test('it is renewed between 62 and 67 hundredths of its life, each machine at a time of its own', async () => {
  const long = await EnrolmentLab.start();
  try {
    const files = await joined('when-1', long);
    const made = Date.now();
    const at = (random: number): number => {
      const { renewal } = renew(files, { random: () => random });
      return ((renewal.status?.renewAt ?? 0) - made) / (7 * 86_400_000);
    };
    assert.ok(Math.abs(at(0) - 0.62) < 0.001, String(at(0)));
    assert.ok(Math.abs(at(1) - 0.67) < 0.001, String(at(1)));
  } finally {
    await long.close();
  }
});

test('a renewal that fails is a warning, near the end an error, and after it the machine is told to join again', async () => {
  const hub = await EnrolmentLab.start({ certificateSeconds: 12 });
  const files = await joined('away-1', hub);
  await hub.close();
  const { renewal, health } = renew(files);
  const seen: string[] = [];
  await until(
    'it is over',
    () => {
      const [record] = health.list();
      const state = record === undefined ? '' : `${record.code} ${record.severity}`;
      if (state !== '' && seen.at(-1) !== state) seen.push(state);
      return seen.at(-1) === 'JOIN-EXPIRED error';
    },
    40_000,
  ).catch((error: unknown) => {
    throw new Error(`${String(error)}: ${JSON.stringify([seen, renewal.status, health.list()])}`);
  });
  assert.deepEqual(seen, ['JOIN-RENEWAL warning', 'JOIN-RENEWAL error', 'JOIN-EXPIRED error']);
  assert.match(renewal.status?.lastError ?? '', /JOIN-UNREACHABLE/);
});

test('a machine that was revoked is told so, and keeps the files that it has', async () => {
  const files = await joined('revoked-1');
  const { cert } = { cert: readFileSync(files.cert, 'utf8') };
  await lab.ask('POST', 'revocations', { workload: 'revoked-1' });
  const { renewal } = renew(files);
  await until('it is told', () => renewal.status?.lastError?.includes('JOIN-REVOKED') === true, 20_000);
  assert.equal(readFileSync(files.cert, 'utf8'), cert);
});

test('a machine that joins again meanwhile is followed', async () => {
  const files = await joined('again-1');
  const { renewal } = renew(files);
  await until('it is known', () => renewal.status !== undefined);
  const { token } = await lab.token('again-1');
  await joinHub({
    stateDir: dirname(files.record),
    configFile: join(dirname(files.config), '../config.yaml'),
    token,
    force: true,
  });
  const { serialNumber } = certificateOf(files);
  await until(
    'the new one is followed',
    () => renewal.status?.serial === serialNumber || (renewal.status?.renewals ?? 0) > 0,
  );
});

test('a machine that did not join a hub has nothing to renew; one that lost its certificate says so', async () => {
  const none = renew(joinFiles(lab.place(), '/etc/mesh-agent/config.yaml'));
  await none.done;
  assert.equal(none.renewal.status, undefined);
  const files = await joined('lost-1');
  rmSync(files.cert);
  const { health } = renew(files);
  await until('it says so', () => health.list()[0]?.code === 'JOIN-RENEWAL');
});
