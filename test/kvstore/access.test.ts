import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { createServer } from 'node:tls';
import type { EtcdOptions } from '../../src/kvstore/etcd-config.ts';
import { openStore } from '../../src/kvstore/session.ts';
import type { Store } from '../../src/kvstore/store.ts';
import { Etcd, loopbackAddress } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';
import { type CertificateFiles, Pki } from '../lab/pki.ts';
import { TcpProxy } from '../lab/proxy.ts';
import { connected, healthy, Mirror, QUICK, trouble } from './mirror.ts';

const KEY = 'cilium/state/noderegister/v1/vm1';
let pki: Pki;
let foreign: Pki;
let etcd: Etcd;
let plain: Etcd;

before(async () => {
  pki = new Pki();
  foreign = new Pki('another-ca');
  const server = pki.server({ names: ['localhost', loopbackAddress(), '127.0.0.1'] });
  etcd = await Etcd.start({ tls: { server, admin: pki.client('root') } });
  await etcd.addUser('vm1', [
    { permission: 'read', prefix: 'cilium/state/nodes/' },
    { permission: 'readwrite', key: KEY },
  ]);
  await etcd.enableAuth();
  plain = await Etcd.start();
});
after(async () => {
  await etcd.close();
  await plain.close();
  pki.close();
  foreign.close();
});

function open(files: Partial<CertificateFiles>, endpoints: readonly string[] = etcd.endpoints): Store {
  return openStore({ etcd: async () => ({ ...files, endpoints }), timing: QUICK });
}

/** Expects that a store with these certificates fails with this code. */
async function refused(code: string, files: Partial<CertificateFiles>, endpoints?: readonly string[]): Promise<string> {
  const store = open(files, endpoints);
  try {
    const { message } = await trouble(store, code);
    assert.notEqual(store.status.state, 'connected');
    assert.equal(store.status.lastFailure?.code, code);
    return message;
  } finally {
    await store.close();
  }
}

const port = (): string => etcd.endpoints[0]?.split(':').at(-1) ?? '';

test('a machine reads what its role allows, and writes exactly its own key', async () => {
  const store = open(pki.client('vm1'));
  try {
    await etcd.put('cilium/state/nodes/v1/c/n', 'node');
    await store.put(KEY, 'me');
    assert.equal((await store.get(KEY))?.value.toString(), 'me');
    assert.equal((await store.list('cilium/state/nodes/v1/')).length, 1);
    const mirror = new Mirror();
    store.watchKey(KEY, mirror);
    await until('its own key is seen', () => mirror.content.get('') === 'me');
    await assert.rejects(store.put('cilium/state/noderegister/v1/vm2', 'x'), { code: 'KVS-AUTH' });
    await assert.rejects(store.put('cilium/state/nodes/v1/c/n', 'x'), { code: 'KVS-AUTH' });
    await assert.rejects(store.get('cilium/state/identities/v1/id/1'), { code: 'KVS-AUTH' });
    assert.equal(store.status.state, 'connected');
  } finally {
    await store.close();
  }
});

test('a role that is revoked and given back: facts stay, the trouble shows, and the watch recovers', async () => {
  const prefix = 'cilium/state/nodes/v1/revoked/';
  const proxy = await TcpProxy.start(etcd.endpoints[0] ?? '');
  const store = open(pki.client('vm1'), [`https://127.0.0.1:${proxy.port}`]);
  const mirror = new Mirror();
  const watch = store.watchPrefix(prefix, mirror);
  try {
    await etcd.put(`${prefix}a`, '1');
    await mirror.matches(etcd, prefix);
    await etcd.revoke('vm1', { permission: 'read', prefix: 'cilium/state/nodes/' });
    // etcd asks only when a watch is made.
    proxy.cut();
    const found = await trouble(store, 'KVS-AUTH');
    assert.equal(found.subject, `watch ${prefix}`);
    assert.match(watch.lastError ?? '', /the store refuses access: .*permission denied/);
    assert.equal(store.status.state, 'connected');
    assert.match(store.status.summary, /refuses access/);
    assert.equal(mirror.content.get('a'), '1');
    await etcd.put(`${prefix}b`, '2');
    await etcd.grant('vm1', { permission: 'read', prefix: 'cilium/state/nodes/' });
    await mirror.matches(etcd, prefix);
    await healthy(store);
    assert.equal(watch.lastError, undefined);
  } finally {
    await store.close();
    await proxy.close();
  }
});

test('a certificate whose user does not exist is refused, and works once the user is made', async () => {
  const store = open(pki.client('vm9'));
  const mirror = new Mirror();
  store.watchPrefix('vm9/', mirror);
  try {
    await trouble(store, 'KVS-AUTH');
    await etcd.put('vm9/a', '1');
    await etcd.addUser('vm9', [{ permission: 'read', prefix: 'vm9/' }]);
    await mirror.matches(etcd, 'vm9/');
    await healthy(store);
  } finally {
    await store.close();
  }
});

test('a name and a password: wrong ones are refused, right ones work, and the login is renewed when it is void', async () => {
  await plain.ctl('user', 'add', 'root:secret');
  await plain.ctl('user', 'grant-role', 'root', 'root');
  await plain.ctl('auth', 'enable');
  const root = ['--user', 'root:secret'];
  const login = (password: string) => (): Promise<EtcdOptions> =>
    Promise.resolve({ endpoints: plain.endpoints, username: 'root', password });
  const wrong = openStore({ etcd: login('wrong'), timing: QUICK });
  const store = openStore({ etcd: login('secret'), timing: QUICK });
  try {
    await trouble(wrong, 'KVS-AUTH');
    await store.put('a', '1');
    const mirror = new Mirror();
    store.watchPrefix('a', mirror);
    await until('it is seen', () => mirror.content.get('') === '1');
    // A changed role makes tokens of before void.
    await plain.ctl(...root, 'role', 'add', 'other');
    await plain.ctl(...root, 'put', 'a', '2');
    await until('it is seen', () => mirror.content.get('') === '2');
    await until('it may write', () => store.put('a', '3').then(() => true, () => false)); // biome-ignore format: short
    await healthy(store);
  } finally {
    await plain.ctl(...root, 'auth', 'disable');
    await wrong.close();
    await store.close();
  }
});

test('certificates that are wrong are told apart', async () => {
  const vm = pki.client('vm1');
  assert.match(await refused('KVS-TLS-UNTRUSTED', { ...vm, ca: foreign.ca }), /not signed by the configured CA/);
  await refused('KVS-TLS-CLIENT', { ...foreign.client('vm1'), ca: pki.ca });
  await refused('KVS-TLS-CLIENT', { ca: pki.ca });
  const expired = pki.client('vm1', { valid: 'past' });
  assert.match(await refused('KVS-TLS-EXPIRED', expired), /our certificate .* expired on/);
  assert.match(await refused('KVS-TLS-EXPIRED', pki.client('vm1', { valid: 'future' })), /is not valid before/);
  await refused('KVS-DNS', vm, ['https://no-such-host.invalid:2379']);
});

test('servers with a wrong certificate are told apart', async () => {
  const vm = pki.client('vm1');
  const address = loopbackAddress();
  const cases: [string, CertificateFiles][] = [
    ['KVS-TLS-NAME', pki.server({ names: ['elsewhere.example.com', '192.0.2.1'] })],
    ['KVS-TLS-EXPIRED', pki.server({ names: [address], valid: 'past' })],
    ['KVS-TLS-EXPIRED', pki.server({ names: [address], valid: 'future' })],
    ['KVS-TLS-UNTRUSTED', { ...foreign.server({ names: [address] }), ca: pki.ca }],
  ];
  for (const [code, { cert, key }] of cases) {
    const server = createServer({ cert: readFileSync(cert), key: readFileSync(key), ALPNProtocols: ['h2'] });
    server.on('tlsClientError', () => {});
    server.listen(0, address);
    await once(server, 'listening');
    try {
      await refused(code, vm, [`https://${address}:${(server.address() as AddressInfo).port}`]);
    } finally {
      server.close();
    }
  }
});

test('files that are missing, or no certificates, are named', async () => {
  const vm = pki.client('vm1');
  assert.match(await refused('KVS-FILE', { ...vm, cert: '/nonexistent/tls.crt' }), /no such file.*tls\.crt/);
  const garbage = join(pki.folder, 'garbage');
  writeFileSync(garbage, 'no certificate\n');
  for (const which of ['ca', 'cert', 'key'] as const) await refused('KVS-FILE', { ...vm, [which]: garbage });
  await refused('KVS-FILE', { ...vm, key: pki.client('vm1').key });
  await refused('KVS-FILE', { ca: vm.ca, cert: vm.cert });
});

test('TLS and its absence on the wrong port are told apart', async () => {
  await refused('KVS-NOT-PLAIN', {}, [`http://${loopbackAddress()}:${port()}`]);
  await refused('KVS-NOT-TLS', pki.client('vm1'), [(plain.endpoints[0] ?? '').replace('http:', 'https:')]);
});

test('verification cannot be switched off by the environment', async () => {
  process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0';
  process.emitWarning = () => {};
  try {
    await refused('KVS-TLS-UNTRUSTED', { ...pki.client('vm1'), ca: foreign.ca });
  } finally {
    delete process.env.NODE_TLS_REJECT_UNAUTHORIZED;
  }
});

test('certificates that are replaced in place are used at the next connect', async () => {
  const files = pki.client('vm1', { valid: 'past' });
  const store = open(files);
  try {
    await trouble(store, 'KVS-TLS-EXPIRED');
    pki.replace(files, pki.client('vm1'));
    await connected(store);
    await healthy(store);
    await store.put(KEY, 'again');
  } finally {
    await store.close();
  }
});
