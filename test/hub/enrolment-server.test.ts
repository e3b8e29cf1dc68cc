import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { AddressBuckets, addressGroup } from '../../src/hub/enrolment/address-buckets.ts';
import { generateKey } from '../../src/pki/keys.ts';
import { makeRequest } from '../../src/pki/request.ts';
import { until } from '../lab/namespace.ts';
import { EnrolmentLab, runProgram } from './enrolment-lab.ts';

let lab: EnrolmentLab;
const LIMITS = { handshakeMs: 800, headersMs: 800, requestMs: 1500, connections: 300, connectionsOfOne: 250 };

before(async () => {
  lab = await EnrolmentLab.start({ limits: { ...LIMITS, burstOfOne: 100_000, burst: 100_000 } });
});
after(() => lab?.close());

function curl(path: string, ...more: string[]) {
  const trust = ['--cacert', lab.folder.ca.cert, '--capath', '/nonexistent'];
  return runProgram('curl', ['-sS', '--max-time', '20', ...trust, ...more, `${lab.url}${path}`]);
}

const packages = (name: string): string => join(lab.folder.packages, name);
const connections = (): number => Number(lab.part('enrolment')?.connections);

/** What the other side sends until it ends the connection. */
function untilClosed(socket: Socket): Promise<string> {
  return new Promise((resolve) => {
    let text = '';
    socket.on('data', (data: Buffer) => {
      text += data.toString('latin1');
    });
    socket.on('error', () => {});
    if (socket.closed) resolve(text);
    socket.once('close', () => resolve(text));
  });
}

const open = (localAddress = '127.0.0.1'): Socket => connect({ host: lab.address, port: lab.port, localAddress });

async function openTls(): Promise<TLSSocket> {
  const socket = connectTls({ host: lab.address, port: lab.port, ca: lab.pki.ca.certificate });
  socket.on('error', () => {});
  await new Promise((resolve, reject) => socket.once('secureConnect', resolve).once('error', reject));
  return socket;
}

test('curl reads the authority, the script and the state of the hub, with the authority of the hub alone', async () => {
  assert.equal((await curl('/v1/ca')).stdout, readFileSync(lab.folder.ca.cert, 'utf8'));
  assert.match((await curl('/install.sh')).stdout, /^#!\/bin\/sh\n/);
  assert.equal((await curl('/healthz')).stdout, 'ok\n');
  assert.match((await curl('/healthz', '-D', '-')).stdout, /^x-mesh-agent-version: \S+\r$/m);
  const { code, stderr } = await runProgram('curl', ['-sS', `${lab.url}/v1/ca`]);
  assert.equal(code, 60, stderr);
});

test('the certificate has the names of the hub, and its chain ends at the authority whose key the token names', async () => {
  const place = ['--connect-to', `hub.example.com:${lab.port}:${lab.address}:${lab.port}`];
  const trust = ['--cacert', lab.folder.ca.cert, '--capath', '/nonexistent'];
  const named = await runProgram('curl', ['-sS', ...place, ...trust, `https://hub.example.com:${lab.port}/healthz`]);
  assert.equal(named.stdout, 'ok\n');
  const shown = await runProgram('openssl', ['s_client', '-connect', `${lab.address}:${lab.port}`, '-showcerts']);
  assert.equal(shown.stdout.match(/BEGIN CERTIFICATE/g)?.length, 2);
});

test('TLS 1.2 is the least that is spoken', async () => {
  const s_client = (...args: string[]) =>
    runProgram('openssl', [
      's_client',
      '-connect',
      `${lab.address}:${lab.port}`,
      '-CAfile',
      lab.folder.ca.cert,
      ...args,
    ]);
  assert.notEqual((await s_client('-tls1_1', '-cipher', 'ALL:@SECLEVEL=0')).code, 0);
  assert.equal((await s_client('-tls1_2', '-verify_return_error')).code, 0);
  assert.equal((await s_client('-tls1_3', '-verify_return_error')).code, 0);
});

test('a machine without our program joins with openssl and curl', async () => {
  await lab.workload('curl-1');
  const { token } = await lab.token('curl-1');
  const folder = lab.place();
  const [key, request, body] = ['key', 'csr', 'body'].map((name) => join(folder, name)) as [string, string, string];
  await runProgram('openssl', ['ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', key]);
  await runProgram('openssl', ['req', '-new', '-key', key, '-subj', '/CN=machine:curl-1', '-out', request]);
  writeFileSync(body, JSON.stringify({ token, request: readFileSync(request, 'utf8') }));
  const { stdout } = await curl('/v1/join', '--data-binary', `@${body}`);
  const { certificate } = JSON.parse(stdout) as { certificate: string };
  const file = join(folder, 'crt');
  writeFileSync(file, certificate);
  const verified = await runProgram('openssl', ['verify', '-CAfile', lab.folder.ca.cert, file]);
  assert.equal(verified.code, 0, verified.stderr);
});

test('packages are served with checksums, whole, in parts, and only those of the folder', async () => {
  const content = randomBytes(300_000);
  writeFileSync(packages('mesh-agent_1.9.0_amd64.deb'), content);
  writeFileSync(packages('mesh-agent_1.10.0_amd64.deb'), 'newer');
  writeFileSync(packages('.hidden'), 'no');
  mkdirSync(packages('folder'));
  symlinkSync(lab.folder.ca.key, packages('link'));
  const sums = (await curl('/packages/SHA256SUMS')).stdout;
  assert.equal(
    sums,
    [
      `${createHash('sha256').update(content).digest('hex')}  mesh-agent_1.9.0_amd64.deb`,
      `${createHash('sha256').update('newer').digest('hex')}  mesh-agent_1.10.0_amd64.deb`,
      '',
    ].join('\n'),
    'lower versions first; no link, folder or hidden file',
  );
  const folder = lab.place();
  const file = join(folder, 'whole');
  await curl('/packages/mesh-agent_1.9.0_amd64.deb', '-o', file);
  assert.ok(readFileSync(file).equals(content));
  for (const [range, from, to] of [
    ['0-99', 0, 100],
    ['299990-', 299_990, 300_000],
    ['-5', 299_995, 300_000],
  ] as const) {
    const part = join(folder, 'part');
    const { stdout } = await curl(
      '/packages/mesh-agent_1.9.0_amd64.deb',
      '-r',
      range,
      '-o',
      part,
      '-w',
      '%{http_code}',
    );
    assert.equal(stdout, '206');
    assert.ok(readFileSync(part).equals(content.subarray(from, to)), range);
  }
  writeFileSync(file, content.subarray(0, 1000));
  await curl('/packages/mesh-agent_1.9.0_amd64.deb', '-C', '-', '-o', file);
  assert.ok(readFileSync(file).equals(content), 'a download that was cut off goes on');
  const status = async (path: string, ...more: string[]): Promise<string> =>
    (await curl(path, '-o', '/dev/null', '-w', '%{http_code}', '--path-as-is', ...more)).stdout;
  assert.equal(await status('/packages/mesh-agent_1.9.0_amd64.deb', '-r', '400000-'), '416');
  assert.equal(await status('/packages/mesh-agent_1.9.0_amd64.deb', '-I'), '200');
  const outside = [
    '../hub.yaml',
    '../pki/ca.key',
    '..%2fpki%2fca.key',
    '%2e%2e/hub.yaml',
    'folder',
    'link',
    '.hidden',
    '',
  ];
  for (const path of [...outside, 'folder/../link', './mesh-agent_1.9.0_amd64.deb', 'a\\..\\b', 'x'.repeat(300)])
    assert.equal(await status(`/packages/${path}`), '404', path);
  writeFileSync(packages('mesh-agent_1.10.0_amd64.deb'), 'changed');
  assert.ok((await curl('/packages/SHA256SUMS')).stdout.includes(createHash('sha256').update('changed').digest('hex')));
});

test('what is not known is refused, with words and in JSON', async () => {
  for (const [path, ...more] of [
    ['/'],
    ['/v1/join'],
    ['/v1/tokens'],
    ['/v1/ca', '-X', 'DELETE'],
    ['/packages/SHA256SUMS', '-X', 'PUT'],
    ['//v1/ca'],
  ] as const)
    assert.equal(JSON.parse((await curl(path, ...more)).stdout).code, 'JOIN-REQUEST', path);
  for (const body of ['', '[]', '1', 'null', '{', '{"token":1,"request":2}', '{"token":"x"}'])
    assert.equal((await lab.post('/v1/join', body)).record.code, 'JOIN-REQUEST', body);
});

test('ten megabytes are refused before they are read', async () => {
  const { stdout } = await curl(
    '/v1/join',
    '-H',
    'Expect:',
    '-o',
    '/dev/null',
    '-w',
    '%{http_code} %{size_upload}',
    '--data-binary',
    `@${bigFile()}`,
  );
  const [status, uploaded] = stdout.split(' ').map(Number);
  assert.equal(status, 413);
  assert.ok((uploaded ?? 0) < 10 << 20, `${uploaded} bytes`);
  const chunked = await curl(
    '/v1/join',
    '-H',
    'Transfer-Encoding: chunked',
    '-o',
    '/dev/null',
    '-w',
    '%{http_code}',
    '--data-binary',
    `@${bigFile()}`,
  );
  assert.equal(chunked.stdout, '413');
});

test('a client that sends everything before it reads is told as well; one that never ends is cut off', async () => {
  const limits = { lingerBytes: 8 << 20, lingerMs: 1500 };
  const lingering = await EnrolmentLab.start({ limits });
  const head = 'POST /v1/join HTTP/1.1\r\nhost: x\r\n';
  const chunk = Buffer.alloc(1 << 20, 'x');
  const dial = async (): Promise<TLSSocket> => {
    const socket = connectTls({ host: lingering.address, port: lingering.port, ca: lingering.pki.ca.certificate });
    socket.on('error', () => {});
    await once(socket, 'secureConnect');
    socket.pause();
    return socket;
  };
  const send = (socket: TLSSocket): Promise<void> => new Promise((resolve) => socket.write(chunk, () => resolve()));
  try {
    const whole = await dial();
    whole.write(`${head}content-length: ${4 << 20}\r\n\r\n`);
    for (let n = 0; n < 4; n++) await send(whole);
    const answer = await untilClosed(whole.resume());
    assert.match(answer, /^HTTP\/1\.1 413 /);
    assert.equal(answer.match(/HTTP\/1\.1/g)?.length, 1);

    const endless = await dial();
    endless.write(`${head}content-length: ${1 << 30}\r\n\r\n`);
    let sent = 0;
    while (!endless.destroyed && sent < 100) {
      await Promise.race([send(endless), once(endless, 'close')]);
      sent++;
    }
    assert.ok(sent < 100, `${sent} MB were taken`);

    const slow = await dial();
    slow.write(`${head}content-length: ${1 << 30}\r\n\r\n`);
    const drip = setInterval(() => slow.write('x'), 50);
    assert.match(await untilClosed(slow.resume()), /^HTTP\/1\.1 413 /);
    clearInterval(drip);
  } finally {
    await lingering.close();
  }
});

function bigFile(): string {
  const file = join(lab.place(), 'big');
  writeFileSync(file, Buffer.alloc(10 << 20, 'x'));
  return file;
}

test('garbage, half handshakes and silence are put out in time', async () => {
  const garbage = open();
  garbage.write(randomBytes(2000));
  const plain = open();
  plain.write('GET / HTTP/1.1\r\nhost: x\r\n\r\n');
  const half = open();
  // The first bytes of a ClientHello that never comes.
  half.write(Buffer.from('160301020001000', 'hex'));
  const silent = open();
  const began = performance.now();
  await Promise.all([garbage, plain, half, silent].map(untilClosed));
  assert.ok(performance.now() - began < 10_000);
  await until('no connection is left', () => connections() === 0);
});

test('a slow header, a slow body and a slow reader are put out in time', async () => {
  const header = await openTls();
  header.write('POST /v1/join HTTP/1.1\r\nhost: x\r\n');
  const drip = setInterval(() => header.write('x-slow: 1\r\n'), 100);
  const body = await openTls();
  body.write('POST /v1/join HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n');
  const dripBody = setInterval(() => body.write('x'), 100);
  const [first, second] = await Promise.all([header, body].map(untilClosed));
  clearInterval(drip);
  clearInterval(dripBody);
  assert.match(`${first}${second}`, /408|400/);
  await until('no connection is left', () => connections() === 0);
});

test('requests that were made to be read in two ways are refused', async () => {
  for (const text of [
    'POST /v1/join HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n',
    'GET /v1/ca HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx',
    'GET /v1/ca HTTP/1.1\nhost: x\n\n\u0000',
    `GET /v1/ca HTTP/1.1\r\nhost: x\r\nx: ${'y'.repeat(20_000)}\r\n\r\n`,
    'CONNECT 127.0.0.1:2379 HTTP/1.1\r\nhost: x\r\n\r\n',
  ]) {
    const socket = await openTls();
    socket.write(text);
    const answer = await untilClosed(socket);
    assert.ok(
      !answer.includes('HTTP/1.1 200') || answer.length === 0,
      `${JSON.stringify(text.slice(0, 60))}: ${answer}`,
    );
  }
});

test('five hundred silent connections do not keep a machine from joining, and are gone after a while', async () => {
  await lab.workload('crowd-1');
  const { token } = await lab.token('crowd-1');
  // From many addresses: one alone cannot have so many.
  const crowd = Array.from({ length: 500 }, (_, n) => open(`127.0.${Math.floor(n / 100) + 1}.${(n % 100) + 1}`));
  for (const socket of crowd) socket.on('error', () => {});
  await until('they are there', () => connections() >= LIMITS.connections - 10);
  const machine = await lab.join(token, 'crowd-1');
  assert.match(machine.cert, /BEGIN CERTIFICATE/);
  assert.ok(connections() <= LIMITS.connections);
  await Promise.all(crowd.map(untilClosed));
  await until('no connection is left', () => connections() === 0);
});

test('one address cannot have all connections', async () => {
  const crowd = Array.from({ length: 280 }, () => open('127.0.9.9'));
  for (const socket of crowd) socket.on('error', () => {});
  await until('some are refused', () => Number(lab.part('enrolment')?.refusedConnections) >= 30);
  assert.ok(connections() <= LIMITS.connectionsOfOne);
  assert.equal((await curl('/healthz')).stdout, 'ok\n');
  for (const socket of crowd) socket.destroy();
});

test('an address that guesses tokens is not even listened to after a while; others are', async () => {
  const limited = await EnrolmentLab.start({ limits: { refusals: 3, refusalsPerSecond: 0 } });
  try {
    await limited.workload('guess-1');
    const { token } = await limited.token('guess-1');
    const request = makeRequest({ commonName: 'machine:guess-1', key: generateKey() });
    const guess = async (): Promise<string> =>
      (await limited.post('/v1/join', { token: 'mat1_xxx', request })).record.code;
    const codes: string[] = [];
    for (let n = 0; n < 6; n++) codes.push(await guess());
    assert.deepEqual(codes, ['JOIN-TOKEN', 'JOIN-TOKEN', 'JOIN-TOKEN', 'JOIN-BUSY', 'JOIN-BUSY', 'JOIN-BUSY']);
    assert.equal((await limited.audit('join-refused')).length, 3);
    assert.equal((await limited.post('/v1/join', { token, request })).record.code, 'JOIN-BUSY');
    const body = join(limited.place(), 'body');
    writeFileSync(body, JSON.stringify({ token, request }));
    const other = ['--interface', '127.0.7.7', '--cacert', limited.folder.ca.cert, '--data-binary', `@${body}`];
    const { stdout } = await runProgram('curl', ['-sS', ...other, `${limited.url}/v1/join`]);
    assert.match(stdout, /BEGIN CERTIFICATE/);
  } finally {
    await limited.close();
  }
});

test('limits know a bounded number of addresses, and one machine cannot be many by its IPv6 network', () => {
  const buckets = new AddressBuckets({ burst: 2, perSecond: 0, addresses: 100 });
  for (let n = 0; n < 5000; n++) buckets.take(`10.0.${n >> 8}.${n & 255}`);
  assert.equal(buckets.size, 100);
  assert.equal(addressGroup('2001:db8:1:2:3:4:5:6'), addressGroup('2001:0db8:1:2::ffff'));
  assert.notEqual(addressGroup('2001:db8:1:2::1'), addressGroup('2001:db8:1:3::1'));
  assert.equal(addressGroup('::ffff:192.0.2.1'), '192.0.2.1');
  assert.ok(buckets.take('2001:db8:1:2::1') && buckets.take('2001:db8:1:2::2') && !buckets.take('2001:db8:1:2::3'));
});

test('a hub whose store is away says so, and the same request is good when it is back', async () => {
  const alone = await EnrolmentLab.start();
  try {
    await alone.workload('away-1');
    const { token } = await alone.token('away-1');
    const pid = Number(alone.hub.status().etcd.process?.pid);
    process.kill(pid, 'SIGSTOP');
    const request = makeRequest({ commonName: 'machine:away-1', key: generateKey() });
    const answer = await alone.post('/v1/join', { token, request }).finally(() => process.kill(pid, 'SIGCONT'));
    assert.equal(answer.status, 503);
    await until('it is back', async () => (await alone.post('/v1/join', { token, request })).status === 200, 30_000);
  } finally {
    await alone.close();
  }
});
