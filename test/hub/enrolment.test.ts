import assert from 'node:assert/strict';
import { createHash, createPrivateKey, X509Certificate } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { AuditLog } from '../../src/hub/enrolment/audit.ts';
import { registerKey } from '../../src/kvstore/paths.ts';
import { silentLog } from '../../src/observe/log.ts';
import { createAuthority, openAuthority } from '../../src/pki/authority.ts';
import { formatJoinToken, makeJoinToken, parseJoinToken } from '../../src/pki/join-token.ts';
import { generateKey } from '../../src/pki/keys.ts';
import { makeRequest } from '../../src/pki/request.ts';
import { until } from '../lab/namespace.ts';
import { codeOf, EnrolmentLab, type Identity, runProgram } from './enrolment-lab.ts';

let lab: EnrolmentLab;

before(async () => {
  // Refusals of one address are limited; here they are what is looked at.
  lab = await EnrolmentLab.start({ limits: { refusals: 10_000 }, careMs: 300 });
});
after(() => lab?.close());

const csr = (workload: string, key = generateKey()): string => makeRequest({ commonName: `machine:${workload}`, key });

async function refusal(token: string, request: string): Promise<{ status: number; code: string }> {
  const { status, record } = await lab.post('/v1/join', { token, request });
  return { status, code: record.code };
}

async function lastRefusal() {
  return lab.lastAudit('join-refused');
}

test('a token lets one machine in: its certificate is for its key, its name, for clients, for a week', async () => {
  await lab.workload('web-1');
  const made = await lab.token('web-1');
  const machine = await lab.join(made.token, 'web-1');
  const certificate = new X509Certificate(machine.cert);
  assert.equal(certificate.subject, 'CN=machine:web-1');
  assert.deepEqual(certificate.keyUsage, ['1.3.6.1.5.5.7.3.2']);
  assert.ok(!certificate.ca);
  const days = (certificate.validToDate.getTime() - Date.now()) / 86_400_000;
  assert.ok(days > 6.9 && days <= 7, String(days));
  assert.deepEqual(machine.answer.cluster, { name: 'vms', id: 100 });
  assert.deepEqual(machine.answer.endpoints, [`https://${lab.address}:${lab.port - 5}`]);
  assert.deepEqual(machine.answer.hubs, [lab.url]);
  const [joined] = (await lab.audit('joined')).filter((record) => record.workload === 'web-1');
  assert.equal(joined?.serial, certificate.serialNumber);
  assert.equal(joined?.token, made.id);
  assert.equal(joined?.from, '127.0.0.1');
});

test('OpenSSL accepts the certificate as that of a client, and not as that of a server', async () => {
  await lab.workload('openssl-1');
  const { cert } = await lab.join((await lab.token('openssl-1')).token, 'openssl-1');
  const file = join(lab.place(), 'agent.crt');
  writeFileSync(file, cert);
  const verify = (purpose: string) =>
    runProgram('openssl', ['verify', '-x509_strict', '-purpose', purpose, '-CAfile', lab.folder.ca.cert, file]);
  assert.equal((await verify('sslclient')).code, 0);
  assert.notEqual((await verify('sslserver')).code, 0);
});

test('the certificate writes its own registration key, and reads neither tokens, audit nor certificates', async () => {
  await lab.workload('rights-1');
  const store = lab.machine(await lab.join((await lab.token('rights-1')).token, 'rights-1'));
  await store.put(registerKey('rights-1'), 'mine');
  assert.equal(await codeOf(store.put(registerKey('rights-2'), 'not mine')), 'KVS-AUTH');
  for (const prefix of ['tokens/', 'audit/', 'certificates/', 'machines/', 'workloads/', 'revoked/'])
    assert.equal(await codeOf(store.list(`mesh-agent/v1/${prefix}`)), 'KVS-AUTH', prefix);
});

test('the hub keeps a hash of the secret, and the secret is nowhere in the store', async () => {
  await lab.workload('hash-1');
  const { token } = await lab.token('hash-1');
  const { secret, id } = parseJoinToken(token);
  const { entries } = await lab.store.readPrefix('mesh-agent/');
  const stored = entries.find(({ key }) => key === `v1/tokens/${id}`)?.value.toString() ?? '';
  assert.ok(stored.includes(createHash('sha256').update(secret).digest('hex')));
  for (const form of [token, secret.toString('hex'), secret.toString('base64'), secret.toString('base64url')])
    for (const { key, value } of entries) assert.ok(!value.includes(form), key);
  assert.ok(!JSON.stringify(await lab.audit()).includes(token));
});

test('of twenty machines that use one token at once exactly one is let in', async () => {
  await lab.workload('race-1');
  const { token } = await lab.token('race-1');
  const answers = await Promise.all(
    Array.from({ length: 20 }, () => lab.post('/v1/join', { token, request: csr('race-1') })),
  );
  assert.equal(answers.filter(({ status }) => status === 200).length, 1);
  assert.deepEqual(
    [...new Set(answers.filter(({ status }) => status !== 200).map(({ record }) => record.code))],
    ['JOIN-TOKEN-USED'],
  );
  assert.equal((await lab.audit('joined')).filter((record) => record.workload === 'race-1').length, 1);
});

test('a replayed token is refused and on record with who used it first', async () => {
  await lab.workload('replay-1');
  const { token, id } = await lab.token('replay-1');
  await lab.join(token, 'replay-1');
  assert.deepEqual(await refusal(token, csr('replay-1')), { status: 403, code: 'JOIN-TOKEN-USED' });
  const record = await lastRefusal();
  assert.equal(record?.token, id);
  assert.equal(record?.from, '127.0.0.1');
  assert.match(record?.reason ?? '', /replayed: it was used at .* from 127\.0\.0\.1/);
});

test('an answer that was lost is given again to the same key for some minutes, and to nobody after that', async () => {
  await lab.workload('lost-1');
  const { token } = await lab.token('lost-1');
  const request = csr('lost-1');
  const first = await lab.post('/v1/join', { token, request });
  const again = await lab.post('/v1/join', { token, request });
  assert.equal(again.status, 200);
  assert.equal(again.record.certificate, first.record.certificate);
  assert.equal((await lab.audit('join-repeated')).length, 1);
  lab.skewMs = 11 * 60_000;
  try {
    assert.deepEqual(await refusal(token, request), { status: 403, code: 'JOIN-TOKEN-USED' });
  } finally {
    lab.skewMs = 0;
  }
});

test('an expired token is refused and on record', async () => {
  await lab.workload('late-1');
  const { token } = await lab.token('late-1', { ttlSeconds: 60 });
  lab.skewMs = 61_000;
  try {
    assert.deepEqual(await refusal(token, csr('late-1')), { status: 403, code: 'JOIN-TOKEN-EXPIRED' });
  } finally {
    lab.skewMs = 0;
  }
  assert.equal((await lastRefusal())?.code, 'JOIN-TOKEN-EXPIRED');
  assert.equal((await lab.tokens()).find(({ workload }) => workload === 'late-1')?.state, 'open');
});

test('a request for another name is refused, on record, and does not use the token up', async () => {
  await lab.workload('name-1');
  await lab.workload('name-2');
  const { token } = await lab.token('name-1');
  for (const commonName of ['machine:name-2', 'name-1', 'root', 'admin-vms', 'machine:name-1 ', 'machine:']) {
    const request = makeRequest({ commonName, key: generateKey() });
    assert.deepEqual(await refusal(token, request), { status: 403, code: 'JOIN-WRONG-NAME' }, commonName);
    assert.match((await lastRefusal())?.reason ?? '', /was asked for, machine:name-1 is granted/);
  }
  await lab.join(token, 'name-1');
});

test('forged tokens are refused and on record: a guessed secret, another workload, an id that is unknown', async () => {
  await lab.workload('forged-1');
  await lab.workload('forged-2');
  const real = parseJoinToken((await lab.token('forged-1')).token);
  const forge = (change: object): string => formatJoinToken({ ...real, ...change });
  const cases: [string, RegExp][] = [
    [forge({ secret: Buffer.alloc(24, 1) }), /forged: the secret is wrong/],
    [forge({ workload: 'forged-2' }), /forged: the token is for forged-1/],
    [forge({ id: '0'.repeat(20) }), /there is no such token/],
    [formatJoinToken(makeJoinToken({ ...real, caHash: Buffer.alloc(32).toString('base64url') })), /for another hub/],
  ];
  for (const [token, reason] of cases) {
    assert.deepEqual(await refusal(token, csr('forged-1')), { status: 403, code: 'JOIN-TOKEN-UNKNOWN' });
    assert.match((await lastRefusal())?.reason ?? '', reason);
  }
  await lab.join(formatJoinToken(real), 'forged-1');
});

test('a malformed token is refused and on record', async () => {
  await lab.workload('malformed-1');
  const { token } = await lab.token('malformed-1');
  for (const text of ['', 'x', `${token.slice(0, -2)}zz`, 'mat1_', '\u0000'.repeat(100)])
    assert.deepEqual(await refusal(text, csr('malformed-1')), { status: 400, code: 'JOIN-TOKEN' });
  assert.match((await lastRefusal())?.reason ?? '', /malformed/);
});

test('a foreign or broken signing request is refused and on record, and the token is still good', async () => {
  await lab.workload('csr-1');
  const { token } = await lab.token('csr-1');
  const folder = lab.place();
  const openssl = async (...args: string[]): Promise<string> => {
    const out = join(folder, 'request.pem');
    const made = await runProgram('openssl', ['req', '-new', '-nodes', '-keyout', '/dev/null', '-out', out, ...args]);
    assert.equal(made.code, 0, made.stderr);
    return (await runProgram('cat', [out])).stdout;
  };
  const good = csr('csr-1');
  const der = Buffer.from(good.replace(/-----[A-Z ]+-----|\s/g, ''), 'base64');
  der[der.length - 1] = (der[der.length - 1] ?? 0) ^ 1;
  const broken = `-----BEGIN CERTIFICATE REQUEST-----\n${der.toString('base64')}\n-----END CERTIFICATE REQUEST-----\n`;
  const requests = [
    '',
    'no PEM',
    broken,
    good + good,
    await openssl('-newkey', 'rsa:1024', '-subj', '/CN=machine:csr-1'),
    await openssl('-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:secp224r1', '-subj', '/CN=machine:csr-1'),
    await openssl(
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:prime256v1',
      '-subj',
      '/O=system:masters/CN=machine:csr-1',
    ),
  ];
  for (const request of requests) {
    const { status, code } = await refusal(token, request);
    assert.equal(code, 'PKI-REQUEST', request);
    assert.equal(status, 400);
    assert.equal((await lastRefusal())?.code, 'PKI-REQUEST');
  }
  const request = await openssl(
    ...['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-subj', '/CN=machine:csr-1'],
    ...['-addext', 'subjectAltName=DNS:hub.example.com', '-addext', 'basicConstraints=critical,CA:TRUE'],
  );
  const { status, record } = await lab.post('/v1/join', { token, request });
  assert.equal(status, 200, 'a request that OpenSSL made is fine');
  const certificate = new X509Certificate(record.certificate);
  assert.equal(certificate.subjectAltName, undefined, 'what a request asks for beyond its name is not granted');
  assert.ok(!certificate.ca);
});

test('a withdrawn token is worth nothing; a used one cannot be withdrawn', async () => {
  await lab.workload('withdrawn-1');
  const { token, id } = await lab.token('withdrawn-1');
  await lab.ask('DELETE', `tokens/${id}?by=tester`);
  await lab.ask('DELETE', `tokens/${id}`);
  assert.deepEqual(await refusal(token, csr('withdrawn-1')), { status: 403, code: 'JOIN-TOKEN-USED' });
  assert.equal((await lab.tokens()).find((record) => record.id === id)?.state, 'withdrawn');
  assert.equal((await lab.audit('token-withdrawn')).filter((record) => record.token === id).length, 1);
  const used = await lab.token('withdrawn-1');
  await lab.join(used.token, 'withdrawn-1');
  assert.equal(await codeOf(lab.ask('DELETE', `tokens/${used.id}`)), 'HUB-TOKEN');
  assert.equal(await codeOf(lab.ask('DELETE', 'tokens/nonsense')), 'HUB-TOKEN');
});

test('a token is made for a workload that exists, and for no life that is not one', async () => {
  assert.equal(await codeOf(lab.token('nobody')), 'JOIN-NO-WORKLOAD');
  await lab.workload('ttl-1');
  for (const ttlSeconds of [0, -1, 5, 31 * 86_400, Number.NaN])
    assert.equal(await codeOf(lab.token('ttl-1', { ttlSeconds })), 'HUB-TOKEN', String(ttlSeconds));
});

test('the running certificate renews itself for the same name, and for no other', async () => {
  await lab.workload('renew-1');
  await lab.workload('renew-2');
  const machine = await lab.join((await lab.token('renew-1')).token, 'renew-1');
  lab.skewMs = 86_400_000;
  try {
    const key = createPrivateKey(machine.key);
    const other = await lab.post('/v1/renew', { request: csr('renew-2', key) }, machine);
    assert.deepEqual([other.status, other.record.code], [403, 'JOIN-WRONG-NAME']);
    assert.equal((await lab.lastAudit('renew-refused'))?.by, 'CN=machine:renew-1');
    const request = csr('renew-1', key);
    const { status, record } = await lab.post('/v1/renew', { request }, machine);
    assert.equal(status, 200);
    const next = new X509Certificate(record.certificate);
    assert.equal(next.subject, 'CN=machine:renew-1');
    assert.notEqual(next.serialNumber, new X509Certificate(machine.cert).serialNumber);
    // The answer was lost: the same one again, not one more.
    const again = await lab.post('/v1/renew', { request }, machine);
    assert.equal(again.record.certificate, record.certificate);
  } finally {
    lab.skewMs = 0;
  }
});

test('a certificate that was just made is not renewed: nobody fills the store by asking', async () => {
  await lab.workload('hasty-1');
  const machine = await lab.join((await lab.token('hasty-1')).token, 'hasty-1');
  const { status, record } = await lab.post('/v1/renew', { request: csr('hasty-1') }, machine);
  assert.deepEqual([status, record.code], [429, 'JOIN-BUSY']);
});

test('renewal is refused without a certificate, with one of another authority, of the hub itself, and when it is expired', async () => {
  await lab.workload('strange-1');
  const machine = await lab.join((await lab.token('strange-1')).token, 'strange-1');
  const key = createPrivateKey(machine.key);
  const foreign = openAuthority(createAuthority('mesh-agent hub vms')).issueClient({
    commonName: 'machine:strange-1',
    publicKey: key,
    seconds: 3600,
  });
  const own = lab.pki.ca.issueClient({ commonName: 'machine:strange-1', publicKey: key, seconds: 3600 });
  const cases: [Identity | undefined, string][] = [
    [undefined, 'JOIN-REVOKED'],
    [{ cert: foreign.pem, key: machine.key }, 'JOIN-REVOKED'],
    // Signed by the hub, but not on record: a copy of the key of the authority does not go unnoticed here.
    [{ cert: own.pem, key: machine.key }, 'JOIN-REVOKED'],
    [{ cert: lab.pki.server.certificate, key: lab.pki.server.key }, 'JOIN-REVOKED'],
  ];
  for (const [identity, code] of cases) {
    const { status, record } = await lab.post('/v1/renew', { request: csr('strange-1', key) }, identity);
    assert.deepEqual([status, record.code], [403, code]);
  }
  lab.skewMs = 8 * 86_400_000;
  try {
    const { record } = await lab.post('/v1/renew', { request: csr('strange-1', key) }, machine);
    assert.equal(record.code, 'JOIN-EXPIRED');
    assert.equal((await lab.lastAudit('renew-refused'))?.code, 'JOIN-EXPIRED');
  } finally {
    lab.skewMs = 0;
  }
});

test('revocation ends rights and connections at once, tokens and renewals too, and says so', async () => {
  await lab.workload('stolen-1');
  const machine = await lab.join((await lab.token('stolen-1')).token, 'stolen-1');
  const open = await lab.token('stolen-1');
  const store = lab.machine(machine);
  await store.put(registerKey('stolen-1'), 'here');
  assert.deepEqual(await lab.ask('POST', 'revocations', { workload: 'stolen-1', by: 'tester' }), {
    workload: 'stolen-1',
    certificates: 1,
  });
  assert.equal(await lab.store.read(registerKey('stolen-1')), undefined);
  assert.equal(await codeOf(store.put(registerKey('stolen-1'), 'still here')), 'KVS-AUTH');
  const { record } = await lab.post('/v1/renew', { request: csr('stolen-1') }, machine);
  assert.equal(record.code, 'JOIN-REVOKED');
  assert.deepEqual(await refusal(open.token, csr('stolen-1')), { status: 403, code: 'JOIN-TOKEN-USED' });
  const revoked = (await lab.audit('revoked')).filter(({ workload }) => workload === 'stolen-1');
  assert.deepEqual(
    revoked.map(({ by, reason }) => [by, reason]),
    [['administrator tester', '1 certificate ended']],
  );
});

test('who renews while being revoked keeps nothing', async () => {
  await lab.workload('both-1');
  const machine = await lab.join((await lab.token('both-1')).token, 'both-1');
  lab.skewMs = 86_400_000;
  try {
    const requests = Array.from({ length: 6 }, () => lab.post('/v1/renew', { request: csr('both-1') }, machine));
    await Promise.all([lab.ask('POST', 'revocations', { workload: 'both-1' }), ...requests]);
    for (const [, identity] of (await Promise.all(requests))
      .filter(({ status }) => status === 200)
      .map(({ record }) => [record, { cert: record.certificate, key: machine.key }] as const))
      assert.equal(
        (await lab.post('/v1/renew', { request: csr('both-1') }, identity).catch(() => ({ status: 403 }))).status,
        403,
      );
    const { entries } = await lab.store.readPrefix('mesh-agent/v1/certificates/');
    const own = entries
      .map(({ value }) => JSON.parse(value.toString()))
      .filter(({ workload }) => workload === 'both-1');
    assert.ok(own.length >= 1);
    for (const certificate of own) assert.ok(certificate.revokedAt > 0);
    assert.equal(await codeOf(lab.machine(machine).put(registerKey('both-1'), 'x')), 'KVS-AUTH');
  } finally {
    lab.skewMs = 0;
  }
});

test('a deleted workload takes its machine along, however it was deleted', async () => {
  for (const [name, remove] of [
    ['deleted-1', () => lab.ask('DELETE', 'workloads/deleted-1')],
    ['deleted-2', () => lab.store.remove('mesh-agent/v1/workloads/default/deleted-2')],
  ] as const) {
    await lab.workload(name);
    const machine = await lab.join((await lab.token(name)).token, name);
    const open = await lab.token(name);
    const store = lab.machine(machine);
    await store.put(registerKey(name), 'here');
    await remove();
    await until(
      `the machine of ${name} has no rights`,
      async () => (await codeOf(store.put(registerKey(name), 'x'))) === 'KVS-AUTH',
    );
    assert.equal((await lab.post('/v1/renew', { request: csr(name) }, machine)).status, 403);
    assert.equal((await refusal(open.token, csr(name))).status, 403);
  }
});

test('a workload that is made anew under the same name is another one: papers of the former are worth nothing', async () => {
  await lab.workload('again-1');
  const former = await lab.join((await lab.token('again-1')).token, 'again-1');
  const token = (await lab.token('again-1')).token;
  await lab.ask('DELETE', 'workloads/again-1');
  // The list that creations are checked against follows a moment later.
  await until('it can be made anew', async () => (await codeOf(lab.workload('again-1'))) === 'none');
  assert.equal((await refusal(token, csr('again-1'))).status, 403);
  assert.equal((await lab.post('/v1/renew', { request: csr('again-1') }, former)).status, 403);
  const machine = await lab.join((await lab.token('again-1')).token, 'again-1');
  // What the hub tidies up of the former one leaves the new one alone.
  const sweeps = Number(lab.part('enrolment-care')?.sweeps);
  await until('two more looks', () => Number(lab.part('enrolment-care')?.sweeps) > sweeps + 1);
  await lab.machine(machine).put(registerKey('again-1'), 'x');
});

test('a hub that was ended between signing and granting, or between marking and removing, is made good', async () => {
  const { access } = contextOf(lab);
  await lab.workload('crash-1');
  const machine = await lab.join((await lab.token('crash-1')).token, 'crash-1');
  const store = lab.machine(machine);
  await access('DELETE', 'crash-1');
  await until('rights are back', async () => (await codeOf(store.put(registerKey('crash-1'), 'x'))) === 'none', 15_000);
  const serial = new X509Certificate(machine.cert).serialNumber;
  const key = `mesh-agent/v1/certificates/${serial}`;
  const found = JSON.parse((await lab.store.read(key))?.value.toString() ?? '{}');
  await lab.store.put(key, JSON.stringify({ ...found, revokedAt: Date.now(), revokedBy: 'a hub that died' }));
  await until(
    'rights are gone',
    async () => (await codeOf(store.put(registerKey('crash-1'), 'x'))) === 'KVS-AUTH',
    15_000,
  );
});

test('what is long over is forgotten', async () => {
  await lab.workload('old-1');
  const { id, token } = await lab.token('old-1');
  const machine = await lab.join(token, 'old-1');
  const serial = new X509Certificate(machine.cert).serialNumber;
  lab.skewMs = 9 * 86_400_000;
  try {
    const gone = async (key: string): Promise<boolean> => (await lab.store.read(`mesh-agent/v1/${key}`)) === undefined;
    await until('certificate, index and token are gone', async () =>
      (
        await Promise.all(
          [`certificates/${serial}`, `machines/old-1/${serial}`, `tokens/${id}`, `machines/old-1/token/${id}`].map(
            gone,
          ),
        )
      ).every(Boolean),
    );
  } finally {
    lab.skewMs = 0;
  }
});

test('a machine that leaves gives up its certificate, and that is on record', async () => {
  await lab.workload('leaver-1');
  const machine = await lab.join((await lab.token('leaver-1')).token, 'leaver-1');
  assert.equal((await lab.post('/v1/leave', {}, machine)).status, 200);
  assert.equal((await lab.post('/v1/renew', { request: csr('leaver-1') }, machine)).record.code, 'JOIN-REVOKED');
  assert.equal((await lab.audit('left')).at(-1)?.by, 'machine leaver-1');
  assert.equal((await lab.post('/v1/leave', {})).status, 403);
});

test('the audit keeps the newest, limits refusals and counts what it left out', async () => {
  const log = new AuditLog({ store: lab.store, log: silentLog, now: Date.now, keep: 40, burst: 5, perSecond: 0 });
  for (let n = 0; n < 100; n++)
    await log.refuse({ event: 'join-refused', from: '192.0.2.1', reason: `${n} ${'x'.repeat(5000)}` });
  const own = (await log.list()).filter(({ from }) => from === '192.0.2.1');
  assert.equal(own.length, 5);
  assert.ok(own.every(({ reason = '' }) => reason.length < 400));
  const later = new AuditLog({ store: lab.store, log: silentLog, now: Date.now, keep: 40, burst: 1, perSecond: 1000 });
  await later.refuse({ event: 'join-refused', from: '192.0.2.2' });
  await log.trim();
  assert.equal((await log.list()).length, 40);
  assert.equal((await lab.lastAudit('join-refused'))?.from, '192.0.2.2');
});

test('a certificate of a machine that was revoked and joined again does not come back to life', async () => {
  await lab.workload('twice-1');
  const stolen = await lab.join((await lab.token('twice-1')).token, 'twice-1');
  await lab.ask('POST', 'revocations', { workload: 'twice-1' });
  const machine = await lab.join((await lab.token('twice-1')).token, 'twice-1');
  await lab.machine(machine).put(registerKey('twice-1'), 'the new one');
  const thief = lab.machine(stolen);
  assert.match(await codeOf(thief.put(registerKey('twice-1'), 'the thief')), /^KVS-/);
  assert.equal((await lab.store.read(registerKey('twice-1')))?.value.toString(), 'the new one');
});

/** Takes a machine's user away behind the hub's back. */
function contextOf({ hub, store }: EnrolmentLab): { access: (method: 'DELETE', name: string) => Promise<void> } {
  assert.ok(hub.leading);
  return {
    async access(_method, name) {
      const { AccessControl } = await import('../../src/kvstore/access-control.ts');
      await new AccessControl(store.session.request).removeUser(`machine:${name}`);
    },
  };
}
