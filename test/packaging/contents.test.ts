import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after, before, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { host, Namespace } from '../lab/namespace.ts';
import { buildRelease } from './build.ts';
import { SystemdMachine } from './systemd-machine.ts';

/** What is in the packages, and what an rpm root makes of one. */
const OVERRIDES = join(import.meta.dirname, '../../packaging/rpm/mesh-agent.rpmlintrc');

let folder: string;
let release: string;
let deb: string;
let rpm: string;

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'mesh-packages-'));
  host('openssl', 'ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', join(folder, 'release.key'));
  release = await buildRelease(join(folder, 'first'), join(folder, 'release.key'));
  const named = (pattern: RegExp): string =>
    join(release, readdirSync(release).find((name) => pattern.test(name)) ?? assert.fail(String(pattern)));
  deb = named(/\.deb$/);
  rpm = named(/\.rpm$/);
});
after(() => rmSync(folder, { recursive: true, force: true }));

const digest = (file: string): string => createHash('sha256').update(readFileSync(file)).digest('hex');

test('the same sources make the same release, byte for byte', async () => {
  const again = await buildRelease(join(folder, 'again'), join(folder, 'release.key'));
  assert.equal(readFileSync(join(again, 'SHA256SUMS'), 'utf8'), readFileSync(join(release, 'SHA256SUMS'), 'utf8'));
});

test('a release is signed, names every file with its checksum, and is a repository for apt and for yum', () => {
  const inside = (name: string): string => join(release, name);
  const signature = ['-verify', inside('release.pub'), '-signature', inside('SHA256SUMS.sig'), inside('SHA256SUMS')];
  host('openssl', 'dgst', '-sha256', ...signature);
  host('sh', '-c', `cd '${release}' && sha256sum --quiet -c SHA256SUMS`);
  const listed = readFileSync(inside('SHA256SUMS'), 'utf8');
  for (const name of readdirSync(release).filter((each) => !/^SHA256SUMS|^release\.pub$|^repodata$/.test(each)))
    assert.ok(listed.includes(`  ${name}\n`), name);
  assert.match(readFileSync(inside('Packages'), 'utf8'), new RegExp(`SHA256: ${digest(deb)}`));
  const primary = gunzipSync(readFileSync(inside('repodata/primary.xml.gz'))).toString();
  assert.ok(primary.includes(digest(rpm)) && primary.includes(`href="${basename(rpm)}"`));
  const rehearsal = ['--from', release, '--key', inside('release.pub'), '--dry-run', '--no-start'];
  const { status, stderr } = spawnSync('sh', [inside('install.sh'), ...rehearsal], { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  assert.match(stderr, /would install mesh-agent_.*_amd64\.deb/);
});

test('apt takes the release folder for a repository, and what it finds there for the package', () => {
  const apt = join(folder, 'apt');
  for (const name of ['lists/partial', 'cache/archives/partial', 'etc'])
    mkdirSync(join(apt, name), { recursive: true });
  writeFileSync(join(apt, 'sources.list'), `deb [trusted=yes] file:${release} ./\n`);
  const options = [
    `Dir::Etc::SourceList=${apt}/sources.list`,
    `Dir::Etc::SourceParts=${apt}/etc`,
    `Dir::State::Lists=${apt}/lists`,
    `Dir::Cache=${apt}/cache`,
    'APT::Sandbox::User=root',
  ].flatMap((option) => ['-o', option]);
  host('apt-get', ...options, '-qq', 'update');
  host('sh', '-c', 'cd "$0" && apt-get "$@" -qq download mesh-agent', apt, ...options);
  const found = readdirSync(apt).find((name) => name.endsWith('.deb')) ?? assert.fail('nothing was downloaded');
  assert.equal(digest(join(apt, found)), digest(deb));
});

test('lintian and rpmlint have nothing to say but what is explained', () => {
  const lintian = spawnSync('lintian', ['--allow-root', '--no-cfg', '--fail-on', 'error,warning', deb], {
    encoding: 'utf8',
  });
  assert.equal(lintian.status, 0, lintian.stdout);
  const rpmlint = spawnSync('rpmlint', ['-r', OVERRIDES, rpm], { encoding: 'utf8' });
  assert.match(rpmlint.stdout, / 0 errors, 0 warnings/, rpmlint.stdout);
});

test('deb and rpm have the same files, but for places that differ between distributions', () => {
  const different = /lintian|zsh|changelog\.gz/;
  const list = (text: string): string[] =>
    text
      .split('\n')
      .map((line) => line.replace(/\/$/, ''))
      .filter((path) => /mesh-agent/.test(path) && !different.test(path))
      .sort();
  const inDeb = list(host('dpkg-deb', '-c', deb).replace(/^.* \.\//gm, '/'));
  const inRpm = list(host('rpm', '-qpl', '--dbpath', join(folder, 'db'), rpm));
  assert.ok(inDeb.length > 25);
  assert.deepEqual(inDeb, inRpm);
});

test('every command has a manual page, and the list of what is inside names every bundled package', () => {
  const root = join(folder, 'unpacked');
  host('dpkg-deb', '-x', deb, root);
  const help = host(join(root, 'usr/bin/mesh-agent'), '--help');
  const commands = [...help.matchAll(/^ {2}([a-z]+)[ |]/gm)].map(([, name]) => name);
  assert.ok(commands.length > 10);
  for (const name of commands) statSync(join(root, `usr/share/man/man8/mesh-agent-${name}.8.gz`));
  const sbom = JSON.parse(readFileSync(join(root, 'usr/share/doc/mesh-agent/sbom.cdx.json'), 'utf8')) as {
    components: { name: string; version: string; hashes?: unknown[] }[];
  };
  const names = sbom.components.map(({ name }) => name);
  for (const name of Object.keys(dependencies())) assert.ok(names.includes(name), name);
  assert.ok(names.includes('Node.js'));
  assert.ok(sbom.components.every(({ name, hashes }) => name === 'Node.js' || (hashes?.length ?? 0) > 0));
});

function dependencies(): Record<string, string> {
  const file = join(import.meta.dirname, '../../package.json');
  return (JSON.parse(readFileSync(file, 'utf8')) as { dependencies: Record<string, string> }).dependencies;
}

test('an rpm root has every file as the package says, keeps what the operator wrote, and is empty after the removal', async () => {
  const namespace = new Namespace('rpm');
  const machine = new SystemdMachine(namespace, join(folder, 'machine'));
  try {
    const { root } = machine;
    host('rpm', '--root', root, '--initdb');
    host('rpm', '--root', root, '--nodeps', '-i', rpm);
    // Path, size, time, digest, mode, owner, group, configuration, documentation, ...
    const files = host('rpm', '-qp', '--dump', '--dbpath', join(folder, 'db'), rpm).trim().split('\n');
    assert.ok(files.length > 30);
    for (const line of files) {
      const [path = '', , , sum = '', mode = ''] = line.split(' ');
      const facts = statSync(join(root, path));
      assert.equal(facts.mode, Number.parseInt(mode, 8), path);
      assert.deepEqual([facts.uid, facts.gid], [0, 0], path);
      if (facts.isFile()) assert.equal(digest(join(root, path)), sum, path);
    }
    // And it starts under a real systemd.
    machine.write('/etc/mesh-agent/config.yaml', '# of the operator\ndatapath: none\n');
    await machine.boot();
    await machine.must('systemctl', 'start', 'mesh-agent');
    assert.equal((await machine.status())?.state, 'not-joined');
    await machine.shutdown();
    host('rpm', '--root', root, '--nodeps', '-U', '--force', rpm);
    assert.match(machine.read('/etc/mesh-agent/config.yaml'), /^# of the operator/);
    // As on a machine that runs: with a kernel that has something of ours.
    host('mount', '-t', 'proc', 'proc', join(root, 'proc'));
    namespace.run('nft', 'add', 'table', 'inet', 'mesh_agent');
    namespace.run('nft', 'add', 'table', 'inet', 'foreign');
    namespace.run('rpm', '--root', root, '-e', 'mesh-agent');
    assert.equal(namespace.run('nft', 'list', 'tables'), 'table inet foreign\n');
    assert.equal(machine.has('/usr/bin/mesh-agent'), false);
    assert.match(machine.read('/etc/mesh-agent/config.yaml.rpmsave'), /^# of the operator/);
    host('rpm', '--root', root, '--nodeps', '-i', rpm);
    host('umount', join(root, 'proc'));
    // As in an image that is being built.
    host('rpm', '--root', root, '-e', 'mesh-agent');
    assert.equal(machine.has('/usr/bin/mesh-agent'), false);
  } finally {
    await machine.close();
    await namespace.close();
  }
});

test('what the rpm needs is what Enterprise Linux 8 has', () => {
  // What glibc 2.28, gcc 8 and the distribution provide there; a newer Node may ask for more.
  const upTo = (name: string, prefix: string, versions: string): string[] =>
    versions.split(' ').map((version) => `${name}(${prefix}_${version})(64bit)`);
  const glibc =
    '2.2.5 2.3 2.3.2 2.3.3 2.3.4 2.4 2.5 2.6 2.7 2.8 2.9 2.10 2.11 2.12 2.13 2.14 2.15 2.16 2.17 2.18 2.22 2.23 2.24 2.25 2.26 2.27 2.28';
  const libraries = ['libc.so.6', 'libm.so.6', 'libdl.so.2', 'libpthread.so.0', 'ld-linux-x86-64.so.2'];
  const provided = [
    ...['/bin/sh', 'nftables', 'iproute', 'systemd', 'rtld(GNU_HASH)'],
    ...[...libraries, 'libgcc_s.so.1', 'libstdc++.so.6'].map((name) => `${name}()(64bit)`),
    ...libraries.flatMap((name) => upTo(name, 'GLIBC', glibc)),
    ...upTo('libgcc_s.so.1', 'GCC', '3.0 3.3 3.4 4.2.0 7.0.0'),
    ...upTo('libstdc++.so.6', 'GLIBCXX', `3.4 ${Array.from({ length: 25 }, (_, i) => `3.4.${i + 1}`).join(' ')}`),
    ...upTo('libstdc++.so.6', 'CXXABI', '1.3 1.3.1 1.3.2 1.3.3 1.3.4 1.3.5 1.3.6 1.3.7 1.3.8 1.3.9 1.3.10 1.3.11'),
  ];
  const spec = join(folder, 'el8.spec');
  writeFileSync(
    spec,
    `Name: el8\nVersion: 1\nRelease: 1\nSummary: what is there\nLicense: none\nBuildArch: noarch\n${provided
      .map((each) => `Provides: ${each}\n`)
      .join('')}%description\nx\n%files\n`,
  );
  const options = [
    '--define',
    `_topdir ${folder}/stub`,
    '--define',
    `_rpmdir ${folder}`,
    '--define',
    '_rpmfilename el8.rpm',
  ];
  host('rpmbuild', '-bb', '--quiet', ...options, spec);
  const root = join(folder, 'el8');
  mkdirSync(root);
  host('rpm', '--root', root, '--initdb');
  host('rpm', '--root', root, '-i', '--test', join(folder, 'el8.rpm'), rpm);
});
