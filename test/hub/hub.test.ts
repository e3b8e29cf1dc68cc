import assert from 'node:assert/strict';
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, test } from 'node:test';
import { ConfigErrors } from '../../src/config/config-errors.ts';
import { MeshError } from '../../src/core/errors.ts';
import { lives, type ProcessName } from '../../src/host/process-name.ts';
import { hostAndPort } from '../../src/hub/etcd/arguments.ts';
import { initHub, loadHub } from '../../src/hub/init.ts';
import { host, until } from '../lab/namespace.ts';
import { HubProcess } from './hub-process.ts';

let labs: HubProcess[] = [];
afterEach(async () => {
  await Promise.all(labs.map((lab) => lab.close()));
  labs = [];
});

async function make(yaml = ''): Promise<HubProcess> {
  const lab = await HubProcess.make({ yaml });
  labs.push(lab);
  return lab;
}

const etcdOf = (lab: HubProcess): ProcessName => JSON.parse(readFileSync(lab.folder.etcdPid, 'utf8')) as ProcessName;
const code = (expected: string) => (error: unknown) => error instanceof MeshError && error.code === expected;

test('a hub is made once; its keys and folders are for its owner alone', async () => {
  const lab = await make();
  const { stateDir, folder } = lab;
  const choices = { clusterName: 'vms', clusterId: 100, pools: [], names: ['hub.example.com'] };
  await assert.rejects(initHub({ stateDir, choices }), code('HUB-EXISTS'));
  for (const path of [folder.path, folder.pki, folder.packages]) assert.equal(statSync(path).mode & 0o777, 0o700, path);
  const files = readdirSync(folder.pki).map((name) => join(folder.pki, name));
  assert.equal(files.length, 12);
  for (const path of [...files, folder.config]) assert.equal(statSync(path).mode & 0o777, 0o600, path);
  for (const [ca, cert, purpose] of [
    [folder.ca, folder.server, 'sslserver'],
    [folder.internal, folder.etcdServer, 'sslserver'],
    [folder.internal, folder.peer, 'sslclient'],
    [folder.internal, folder.admin, 'sslclient'],
  ] as const)
    assert.match(host('openssl', 'verify', '-x509_strict', '-purpose', purpose, '-CAfile', ca.cert, cert.cert), /OK/);
  const before = readFileSync(folder.ca.cert, 'utf8');
  await initHub({ stateDir, choices, force: true });
  assert.notEqual(readFileSync(folder.ca.cert, 'utf8'), before);
});

test('what cannot be a hub is refused before anything is made', async () => {
  const stateDir = mkdtempSync(join(tmpdir(), 'mesh-hub-'));
  const good = { clusterName: 'vms', clusterId: 100, pools: ['10.192.0.0/16'], names: ['hub.example.com'] };
  for (const bad of [
    { clusterName: 'default' },
    { clusterName: 'Vms' },
    { clusterId: 0 },
    { clusterId: 256 },
    { pools: ['10.192.0.1/16'] },
    { pools: ['10.0.0.0/8', '10.192.0.0/16'] },
    { pools: ['10.0.0.0/31'] },
    { names: [] },
    { names: ['Hub'] },
    { names: ['-x'] },
    { listenEtcd: 'nowhere' },
    { listenEtcd: '0.0.0.0:0' },
    { listenEtcd: '0.0.0.0:8443' },
    { etcdEndpoints: ['http://plain:2379'] },
  ])
    await assert.rejects(initHub({ stateDir, choices: { ...good, ...bad } }), ConfigErrors, JSON.stringify(bad));
  assert.deepEqual(readdirSync(stateDir), []);
  rmSync(stateDir, { recursive: true });
});

test('every fault of hub.yaml is told with its line', async () => {
  const lab = await make();
  const { path } = lab.folder;
  const problems = (yaml: string): string[] => {
    writeFileSync(lab.folder.config, yaml);
    try {
      loadHub(lab.stateDir);
      return [];
    } catch (error) {
      assert.ok(error instanceof ConfigErrors);
      return error.problems.map(({ place = '', message }) => `${place.replace(path, '')} ${message}`);
    }
  };
  const head = 'cluster: {name: vms, id: 100}\nnames: [hub]\n';
  assert.deepEqual(problems(head), []);
  assert.match(problems(`${head}lisen: {etcd: x}\n`)[0] ?? '', /hub\.yaml:3 .*lisen.*listen/);
  assert.match(
    problems(`${head}listen:\n  etcd: 5\n  enrolment: x\n`).join('\n'),
    /:4 .*listen\.etcd[\s\S]*:5 .*listen\.enrolment/,
  );
  assert.match(problems(`${head}etcd: {quota: 1Ki}\n`)[0] ?? '', /:3 .*etcd\.quota/);
  for (const good of ['0', '15s', '2m', '10m'])
    assert.deepEqual(problems(`${head}services: {unreachableAfter: ${good}}\n`), []);
  for (const bad of ['14s', '11m', '1h', '60', '-1', 'never'])
    assert.match(problems(`${head}services: {unreachableAfter: ${bad}}\n`)[0] ?? '', /:3 .*unreachableAfter/, bad);
  assert.match(problems('names: [hub]\n')[0] ?? '', /cluster\.name: it is missing/);
  assert.match(problems(`${head}names: [b]\n`)[0] ?? '', /:3 /);
  assert.match(problems(`${head}x: &a [*a]\n`)[0] ?? '', /references/);
  assert.match(problems('- a\n')[0] ?? '', /:1 .*mapping/);
  assert.match(problems('{')[0] ?? '', /:1 /);
  rmSync(lab.folder.config);
  assert.throws(() => loadHub(lab.stateDir), code('HUB-MISSING'));
});

test('an etcd that is killed comes back with its data, and so does what everyone sees', async () => {
  const lab = await make();
  const before = await lab.run();
  assert.deepEqual([before.state, before.etcd.own, before.leader?.here], ['ok', true, true]);
  const store = lab.open();
  await store.put('mesh-agent/v1/test/a', '1');
  const { pid } = etcdOf(lab);
  process.kill(pid, 'SIGKILL');
  const after = await lab.untilStatus(
    'another etcd',
    ({ etcd, store }) => (etcd.process?.starts ?? 0) > 1 && store.state === 'connected',
  );
  assert.notEqual(after.etcd.process?.pid, pid);
  assert.equal((await store.get('mesh-agent/v1/test/a'))?.value.toString(), '1');
  await lab.untilStatus('nothing wrong', ({ state, leader }) => state === 'ok' && leader?.here === true);
  assert.equal(await lab.end(), 0);
  assert.deepEqual(readdirSync(lab.folder.path).sort(), ['data-set.json', 'etcd', 'hub.yaml', 'packages', 'pki']);
});

test('a hub that is killed leaves no etcd behind, and the next one goes on', async () => {
  const lab = await make();
  await lab.run();
  await lab.open().put('mesh-agent/v1/test/a', '1');
  const etcd = etcdOf(lab);
  await lab.end('SIGKILL');
  await until('its etcd ended', () => !lives(etcd));
  await lab.run();
  assert.equal((await lab.open().get('mesh-agent/v1/test/a'))?.value.toString(), '1');
});

test('two hubs do not work in one folder', async () => {
  const lab = await make();
  await lab.run();
  const second = await make();
  rmSync(second.folder.path, { recursive: true });
  const choices = { clusterName: 'vms', clusterId: 100, pools: [], names: ['hub'] };
  await assert.rejects(initHub({ stateDir: lab.stateDir, choices, force: true }), code('HUB-RUNNING'));
  await assert.rejects(
    async () =>
      host(process.execPath, join(import.meta.dirname, 'run-hub.ts'), lab.stateDir, join(lab.stateDir, 'b.sock')),
    /HUB-RUNNING|runs in this folder/,
  );
});

for (const [what, key, expected] of [
  ['the port of etcd', 'client', 'HUB-ETCD-PORT'],
  ['the port of the guard', 'listen', 'HUB-LISTEN'],
] as const) {
  test(`${what} is taken: the status says so, and it goes on when it is free`, async () => {
    const lab = await make();
    const place = hostAndPort(key === 'client' ? lab.config.etcd.client : lab.config.listen.etcd);
    const thief = createServer().listen(place.port, place.host);
    await until('it is taken', () => thief.listening);
    lab.start();
    await lab.untilStatus(expected, ({ health }) => health.some((record) => record.code === expected));
    thief.close();
    await lab.untilStatus('a leader and nothing wrong', ({ state, leader }) => state === 'ok' && leader !== null);
  });
}

test('an etcd whose data are gone is not replaced by an empty one', async () => {
  const lab = await make();
  await lab.run();
  await lab.end();
  rmSync(lab.folder.etcd, { recursive: true });
  lab.start();
  assert.equal(await lab.ended(), 1);
  assert.match(lab.log, /HUB-ETCD-DATA/);
  assert.ok(!existsSync(join(lab.folder.etcd, 'member')));
});

test('a file that is missing or wrong is named; certificates are made again', async () => {
  const lab = await make();
  const ended = async (): Promise<string> => {
    lab.start();
    assert.equal(await lab.ended(), 1);
    return lab.log;
  };
  rmSync(lab.folder.admin.cert);
  writeFileSync(lab.folder.server.cert, 'nonsense');
  await lab.run();
  await lab.end();
  const key = readFileSync(lab.folder.ca.key);
  rmSync(lab.folder.ca.key);
  assert.match(await ended(), /HUB-FILES.*ca\.key|ca\.key.*HUB-FILES/);
  writeFileSync(lab.folder.ca.key, readFileSync(lab.folder.internal.key));
  assert.match(await ended(), /PKI-CA/);
  writeFileSync(lab.folder.ca.key, key);
  writeFileSync(lab.folder.admin.key, 'nonsense');
  assert.match(await ended(), /HUB-FILES/);
});

test('a name that is added to hub.yaml is in the certificate after the next start', async () => {
  const lab = await make();
  writeFileSync(
    lab.folder.config,
    readFileSync(lab.folder.config, 'utf8').replace('- hub.example.com', '- hub.example.com\n  - new.example.com'),
  );
  await lab.run();
  const shown = host('openssl', 'x509', '-noout', '-ext', 'subjectAltName', '-in', lab.folder.server.cert);
  assert.match(shown, /new\.example\.com/);
  assert.match(shown, /\*\.mesh\.cilium\.io/);
});

test('an alarm without a reason is ended, also when nobody leads', async () => {
  const lab = await make();
  await lab.run();
  const access = lab.admin();
  const ctl = (...args: string[]): string =>
    host(
      'etcdctl',
      '--endpoints',
      access.endpoints[0] ?? '',
      '--cacert',
      access.ca ?? '',
      '--cert',
      access.cert ?? '',
      '--key',
      access.key ?? '',
      ...args,
    );
  await lab.end();
  appendFileSync(lab.folder.config, '');
  await lab.run();
  const { Member } = await import('../../src/kvstore/maintenance.ts');
  const member = await Member.connect(access.endpoints[0] ?? '', access, new AbortController().signal);
  const status = await member.status();
  member.close();
  const { WireWriter } = await import('../../src/kvstore/wire.ts');
  const store = lab.open();
  for (const kind of [1, 2]) {
    const raise = new WireWriter()
      .uint(1, 1)
      .uint(2, BigInt(`0x${status.memberId}`))
      .uint(3, kind)
      .finish();
    await store.session.request('Maintenance/Alarm', raise, () => ({
      header: { clusterId: status.clusterId, revision: status.revision },
    }));
    assert.match(ctl('alarm', 'list'), /NOSPACE|CORRUPT/);
    await until('it is over', () => ctl('alarm', 'list').trim() === '', 20_000);
  }
  await store.put('mesh-agent/v1/test/a', '1');
});

test('an etcd that is full of history is compacted, and takes writes again', async () => {
  const lab = await make('etcd: {quota: 64Mi}\n');
  await lab.run();
  const store = lab.open();
  const value = Buffer.alloc(1 << 20, 'x');
  let full = false;
  for (let i = 0; i < 200 && !full; i++)
    await store.put('mesh-agent/v1/test/big', value).catch((error: Error) => {
      full = /space exceeded/.test(error.message);
    });
  assert.ok(full, 'etcd never was full');
  await until(
    'it takes writes',
    () =>
      store.put('mesh-agent/v1/test/a', '1').then(
        () => true,
        () => false,
      ),
    30_000,
  );
  await lab.untilStatus('nothing wrong', ({ state, etcd }) => state === 'ok' && etcd.alarms.length === 0);
});

test('a backup brings everything back after the machine was lost, as another data set', async () => {
  const lab = await make();
  await lab.run();
  const store = lab.open();
  await store.put('mesh-agent/v1/test/a', 'kept');
  const backup = join(lab.stateDir, 'hub.tar');
  const main = join(import.meta.dirname, '../../src/main.ts');
  const cli = (...args: string[]): string => host(process.execPath, main, 'hub', ...args, '--state-dir', lab.stateDir);
  assert.match(cli('backup', backup), /bytes of data/);
  assert.equal(statSync(backup).mode & 0o777, 0o600);
  await store.put('mesh-agent/v1/test/a', 'later');
  let lists = 0;
  const seen = new Map<string, string>();
  store.watchPrefix('mesh-agent/v1/test/', {
    listing: () => void lists++,
    put: (key, value) => void seen.set(key, value.toString()),
    remove() {},
    listed() {},
  });
  await until('it is watched', () => seen.get('a') === 'later');
  const { clusterId } = store.status;
  await lab.end('SIGKILL');
  rmSync(lab.folder.path, { recursive: true });
  assert.match(cli('restore', backup), /as it was/);
  assert.throws(() => cli('restore', backup), /HUB-EXISTS/);
  for (const path of readdirSync(lab.folder.pki))
    assert.equal(statSync(join(lab.folder.pki, path)).mode & 0o777, 0o600);
  await lab.run();
  await until(
    'who watched lists again and sees the data of the backup',
    () => lists > 1 && seen.get('a') === 'kept',
    20_000,
  );
  assert.notEqual(store.status.clusterId, clusterId);
  await lab.end();
  assert.match(cli('restore', backup, '--force'), /former hub is in/);
  assert.equal(readdirSync(lab.stateDir).filter((name) => name.startsWith('hub.replaced-')).length, 1);
});

test('what is no backup, or was changed, is refused and changes nothing', async () => {
  const lab = await make();
  await lab.run();
  const backup = join(lab.stateDir, 'hub.tar');
  const main = join(import.meta.dirname, '../../src/main.ts');
  const cli = (...args: string[]): string => host(process.execPath, main, 'hub', ...args, '--state-dir', lab.stateDir);
  cli('backup', backup);
  await lab.end();
  const config = readFileSync(lab.folder.config, 'utf8');
  const stage = join(lab.stateDir, 'stage');
  const refuse = (name: string): void => {
    assert.throws(() => cli('restore', join(lab.stateDir, name), '--force'), /HUB-BACKUP/, name);
    assert.equal(readFileSync(lab.folder.config, 'utf8'), config);
    assert.deepEqual(
      readdirSync(lab.stateDir).filter((each) => /^\.restore|replaced/.test(each)),
      [],
    );
  };
  refuse('missing.tar');
  writeFileSync(join(lab.stateDir, 'text.tar'), 'no tar at all');
  refuse('text.tar');
  const change = (name: string, edit: () => void): void => {
    rmSync(stage, { recursive: true, force: true });
    cpSync(lab.folder.packages, stage, { recursive: true });
    host('tar', '-C', stage, '-xf', backup);
    edit();
    host('tar', '-C', stage, '-cf', join(lab.stateDir, name), '.');
    refuse(name);
  };
  change('changed.tar', () => appendFileSync(join(stage, 'hub.yaml'), '# x\n'));
  change('less.tar', () => rmSync(join(stage, 'snapshot.db')));
  change('link.tar', () => {
    rmSync(join(stage, 'hub.yaml'));
    host('ln', '-s', '/etc/passwd', join(stage, 'hub.yaml'));
  });
  change('manifest.tar', () => writeFileSync(join(stage, 'manifest.json'), '{"format":2}'));
});
