import assert from 'node:assert/strict';
import { createPublicKey, X509Certificate } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { MeshError } from '../../src/core/errors.ts';
import { createAuthority, openAuthority } from '../../src/pki/authority.ts';
import { generateKey, privateKeyPem, publicKeyHash } from '../../src/pki/keys.ts';
import { makeRequest, readRequest } from '../../src/pki/request.ts';
import { host } from '../lab/namespace.ts';

const DAY = 86_400;
const folder = mkdtempSync(join(tmpdir(), 'mesh-certificates-'));
after(() => rmSync(folder, { recursive: true, force: true }));

function file(name: string, content: string): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

const text = (pem: string): string => host('openssl', 'x509', '-noout', '-text', '-in', file('text.crt', pem));
const refused = (code: string) => (error: unknown) => error instanceof MeshError && error.code === code;

const pems = createAuthority('test authority');
const authority = openAuthority(pems);
const caFile = file('ca.crt', pems.certificate);

test('openssl accepts the authority as one that signs certificates and no authorities', () => {
  assert.match(host('openssl', 'verify', '-x509_strict', '-CAfile', caFile, caFile), /OK/);
  const shown = text(pems.certificate);
  assert.match(shown, /CA:TRUE, pathlen:0/);
  assert.match(shown, /Certificate Sign, CRL Sign/);
  assert.match(shown, /NIST CURVE: P-256/);
  assert.match(shown, /ecdsa-with-SHA256/);
});

test('openssl accepts a server certificate for its names and addresses, and for no others', () => {
  const names = ['hub.example.com', '*.mesh.cilium.io', '192.0.2.10', '2001:db8::10'];
  const key = generateKey();
  const issued = authority.issueServer({ commonName: 'hub', names, publicKey: key, seconds: 30 * DAY });
  const path = file('server.crt', issued.pem);
  const verify = (...more: string[]): string =>
    host('openssl', 'verify', '-x509_strict', '-CAfile', caFile, '-purpose', 'sslserver', ...more, path);
  for (const good of ['hub.example.com', 'vms.mesh.cilium.io']) assert.match(verify('-verify_hostname', good), /OK/);
  for (const good of ['192.0.2.10', '2001:db8::10']) assert.match(verify('-verify_ip', good), /OK/);
  assert.throws(() => verify('-verify_hostname', 'other.example.com'), /mismatch/);
  assert.throws(() => verify('-verify_ip', '192.0.2.11'), /mismatch/);
  assert.doesNotMatch(text(issued.pem), /Client Authentication/);
});

test('openssl accepts a client certificate for clients and not for servers', () => {
  const issued = authority.issueClient({ commonName: 'machine:vm1', publicKey: generateKey(), seconds: DAY });
  const path = file('client.crt', issued.pem);
  const verify = (purpose: string): string =>
    host('openssl', 'verify', '-x509_strict', '-CAfile', caFile, '-purpose', purpose, path);
  assert.match(verify('sslclient'), /OK/);
  assert.throws(() => verify('sslserver'), /purpose/);
  assert.match(text(issued.pem), /Subject: CN = machine:vm1/);
});

test('a certificate begins an hour ago, has a serial number of 128 bits, and does not outlive its authority', () => {
  const short = openAuthority(createAuthority('short', 2 * DAY));
  const before = Date.now();
  const issued = short.issueClient({ commonName: 'a', publicKey: generateKey(), seconds: 30 * DAY });
  const certificate = new X509Certificate(issued.pem);
  assert.ok(Math.abs(before - 3_600_000 - certificate.validFromDate.getTime()) < 5000);
  assert.equal(certificate.validToDate.getTime(), short.notAfter.getTime());
  assert.deepEqual(
    [issued.notBefore.getTime(), issued.notAfter.getTime(), issued.serial],
    [certificate.validFromDate.getTime(), certificate.validToDate.getTime(), certificate.serialNumber],
  );
  assert.match(issued.serial, /^[0-9A-F]{32}$/);
  const serials = new Set(
    Array.from(
      { length: 50 },
      () => short.issueClient({ commonName: 'a', publicKey: generateKey(), seconds: 9 }).serial,
    ),
  );
  assert.equal(serials.size, 50);
});

test('dates behind 2049 are written as RFC 5280 wants them', () => {
  const far = createAuthority('far', 40 * 365 * DAY);
  assert.match(
    host('openssl', 'verify', '-x509_strict', '-CAfile', file('far.crt', far.certificate), join(folder, 'far.crt')),
    /OK/,
  );
  assert.match(host('openssl', 'asn1parse', '-in', join(folder, 'far.crt')), /GENERALIZEDTIME/);
});

test('an expired certificate is refused by openssl, an expired authority signs nothing', () => {
  const past = createAuthority('past', -60);
  assert.throws(() => openAuthority(past), refused('PKI-CA'));
  const issued = authority.issueClient({ commonName: 'a', publicKey: generateKey(), seconds: 1 });
  const path = file('short.crt', issued.pem);
  const at = Math.floor(Date.now() / 1000) + 5;
  assert.throws(() => host('openssl', 'verify', '-attime', String(at), '-CAfile', caFile, path), /expired/);
});

test('an authority is not opened with a foreign key, or with a certificate that is none', () => {
  const other = createAuthority('other');
  assert.throws(() => openAuthority({ ...pems, key: other.key }), refused('PKI-CA'));
  const key = generateKey();
  const leaf = authority.issueClient({ commonName: 'leaf', publicKey: key, seconds: DAY });
  assert.throws(() => openAuthority({ certificate: leaf.pem, key: privateKeyPem(key) }), refused('PKI-CA'));
  assert.throws(() => openAuthority({ certificate: 'no', key: 'no' }), refused('PKI-CA'));
});

test('names that no certificate may have are refused', () => {
  for (const commonName of ['', 'x'.repeat(65), 'a\nb', 'a\0b'])
    assert.throws(
      () => authority.issueClient({ commonName, publicKey: generateKey(), seconds: 9 }),
      refused('PKI-NAME'),
    );
});

test('the hash of the public key is what openssl computes, and survives a new certificate for the same key', () => {
  const der = host('openssl', 'x509', '-noout', '-pubkey', '-in', caFile);
  assert.equal(publicKeyHash(pems.certificate), publicKeyHash(createPublicKey(der)));
  file('ca.pub', der);
  const script = host(
    'openssl',
    'pkey',
    '-pubin',
    '-in',
    join(folder, 'ca.pub'),
    '-outform',
    'DER',
    '-out',
    join(folder, 'ca.der'),
  );
  assert.equal(script, '');
  const digest = host('openssl', 'dgst', '-sha256', '-r', join(folder, 'ca.der')).slice(0, 64);
  assert.equal(Buffer.from(authority.publicKeyHash, 'base64url').toString('hex'), digest);
});

test('openssl verifies a request made here; a request made by openssl is accepted here', () => {
  const key = generateKey();
  const request = makeRequest({ commonName: 'machine:vm1', key });
  const path = file('own.csr', request);
  const shown = host('openssl', 'req', '-in', path, '-noout', '-verify', '-subject');
  assert.match(shown, /CN = machine:vm1/);
  const own = readRequest(request);
  assert.equal(own.commonName, 'machine:vm1');
  assert.equal(publicKeyHash(own.publicKey), publicKeyHash(key));
  const made = opensslRequest('/CN=machine:vm2', ['-addext', 'subjectAltName=DNS:evil.example.com']);
  assert.equal(readRequest(made).commonName, 'machine:vm2');
});

function opensslRequest(subject: string, more: string[] = [], curve = 'prime256v1'): string {
  const key = ['-newkey', 'ec', '-pkeyopt', `ec_paramgen_curve:${curve}`, '-nodes', '-keyout', join(folder, 'any.key')];
  return host('openssl', 'req', '-new', ...key, '-subj', subject, ...more);
}

test('a request is refused when one bit of it was changed', () => {
  const pem = makeRequest({ commonName: 'machine:vm1', key: generateKey() });
  const der = Buffer.from(pem.replace(/-----[^-]+-----/g, ''), 'base64');
  for (let bit = 0; bit < der.length * 8; bit++) {
    const changed = Buffer.from(der);
    changed[bit >> 3] = (changed[bit >> 3] as number) ^ (1 << (bit & 7));
    const forged = `-----BEGIN CERTIFICATE REQUEST-----\n${changed.toString('base64')}\n-----END CERTIFICATE REQUEST-----\n`;
    assert.throws(() => readRequest(forged), refused('PKI-REQUEST'), `bit ${bit}`);
  }
});

test('a request with another kind of key, digest or subject is refused', () => {
  const others = [
    opensslRequest('/CN=a', [], 'secp384r1'),
    opensslRequest('/CN=a', ['-sha512']),
    opensslRequest('/CN=a/O=b'),
    opensslRequest('/O=b'),
    host(
      'openssl',
      'req',
      '-new',
      '-newkey',
      'rsa:2048',
      '-nodes',
      '-keyout',
      join(folder, 'rsa.key'),
      '-subj',
      '/CN=a',
    ),
  ];
  for (const pem of others) assert.throws(() => readRequest(pem), refused('PKI-REQUEST'));
});

test('text that is no request is refused, whatever it is', () => {
  const good = makeRequest({ commonName: 'a', key: generateKey() });
  const body = good.split('\n').slice(1, -2).join('');
  const wrap = (data: Buffer): string =>
    `-----BEGIN CERTIFICATE REQUEST-----\n${data.toString('base64')}\n-----END CERTIFICATE REQUEST-----\n`;
  const bad = [
    '',
    'x',
    good + good,
    pems.certificate,
    wrap(Buffer.concat([Buffer.from(body, 'base64'), Buffer.from([0])])),
    wrap(Buffer.from(body, 'base64').subarray(0, 50)),
    wrap(Buffer.from([0x30, 0x80, 0, 0])),
    wrap(Buffer.from([0x30, 0x84, 0xff, 0xff, 0xff, 0xff])),
    wrap(Buffer.alloc(12_000, 0x30)),
    `-----BEGIN CERTIFICATE REQUEST-----\n${'A'.repeat(20_000)}\n-----END CERTIFICATE REQUEST-----\n`,
  ];
  for (const pem of bad) assert.throws(() => readRequest(pem), refused('PKI-REQUEST'));
});
