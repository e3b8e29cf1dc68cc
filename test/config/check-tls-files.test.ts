import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { checkTlsFiles, type Findings, type TlsFiles } from '../../src/config/check-tls-files.ts';

const folder = mkdtempSync(join(tmpdir(), 'mesh-tls-'));
const at = (name: string): string => join(folder, name);
const DAY = 86_400_000;

function openssl(...args: string[]): void {
  const result = spawnSync('openssl', args, { encoding: 'utf8', cwd: folder });
  assert.equal(result.status, 0, result.stderr);
}

before(() => {
  for (const name of ['one', 'two']) {
    const files = ['-keyout', `${name}.key`, '-out', `${name}.crt`];
    openssl(
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
      '-days',
      '30',
      '-subj',
      `/CN=${name}`,
      ...files,
    );
  }
  openssl('ec', '-in', 'one.key', '-aes256', '-passout', 'pass:hunter2', '-out', 'locked.key');
  writeFileSync(at('garbage.pem'), '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n');
  writeFileSync(at('empty.pem'), '');
});
after(() => rmSync(folder, { recursive: true, force: true }));

function check(files: TlsFiles, now?: number): { problems: string[]; warnings: string[] } {
  const findings: Findings = { problems: [], warnings: [] };
  checkTlsFiles(files, findings, now);
  const text = (list: Findings['problems']): string[] =>
    list.map(({ code, message, place }) => `${code} ${place}: ${message}`);
  return { problems: text(findings.problems), warnings: text(findings.warnings) };
}

test('a certificate with its key and its authority is fine', () => {
  chmodSync(at('one.key'), 0o600);
  assert.deepEqual(check({ ca: at('two.crt'), cert: at('one.crt'), key: at('one.key') }), {
    problems: [],
    warnings: [],
  });
});

test('a key of another certificate is found', () => {
  const { problems } = check({ cert: at('one.crt'), key: at('two.key') });
  assert.equal(problems.length, 1);
  assert.match(problems[0] ?? '', /CFG-CERTIFICATE .*two\.key: .*does not belong to the certificate .*one\.crt/);
});

test('a certificate that is over, not yet valid, or nearly over is told apart', () => {
  assert.match(check({ cert: at('one.crt') }, Date.now() + 31 * DAY).problems.join(), /one\.crt: .*CN=one expired on/);
  assert.match(check({ cert: at('one.crt') }, Date.now() - DAY).problems.join(), /one\.crt: .*CN=one is valid from/);
  // A third of its life is left when it is renewed: no reason for a word.
  assert.deepEqual(check({ cert: at('one.crt') }, Date.now() + 20 * DAY).warnings, []);
  const soon = check({ cert: at('one.crt') }, Date.now() + 26 * DAY);
  assert.deepEqual(soon.problems, []);
  assert.match(soon.warnings.join(), /CN=one expires on/);
});

test('what is missing, empty, garbage or locked is named, and nothing of a key is quoted', () => {
  assert.match(check({ ca: at('missing.pem') }).problems.join(), /CFG-FILE .*missing\.pem/);
  assert.match(check({ ca: at('empty.pem') }).problems.join(), /empty\.pem: .*no PEM certificate/);
  assert.match(check({ ca: at('garbage.pem') }).problems.join(), /garbage\.pem: .*certificate 1 cannot be read/);
  assert.match(check({ key: at('locked.key') }).problems.join(), /locked\.key: .*encrypted/);
  assert.match(check({ key: at('one.crt') }).problems.join(), /one\.crt: .*no PEM private key/);
  assert.match(check({ cert: folder }).problems.join(), /CFG-FILE/);
});

test('a private key that everyone may read is warned about', () => {
  chmodSync(at('two.key'), 0o644);
  assert.match(check({ key: at('two.key') }).warnings.join(), /CFG-EXPOSED .*two\.key/);
});
