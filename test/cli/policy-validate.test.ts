import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { runMain } from './run-command.ts';

const folder = mkdtempSync(join(tmpdir(), 'mesh-validate-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const policy = (name: string, port: string): string => `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: ${name}, namespace: production}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts: [{ports: [{port: "${port}", protocol: TCP}]}]
`;

test('a valid file is fine, from a file and from standard input', async () => {
  const file = join(folder, 'good.yaml');
  writeFileSync(file, policy('web', '8080'));
  const { code, stdout } = await runMain(['policy', 'validate', file]);
  assert.equal(code, 0, stdout);
  assert.match(
    stdout,
    /good\.yaml:1: document 1, CiliumNetworkPolicy\/production\/web: ok\n1 object valid, 0 not valid\n$/,
  );
  assert.equal((await runMain(['policy', 'validate', '-'], { input: policy('web', '80') })).code, 0);
});

test('an error names file, line, document and path', async () => {
  const file = join(folder, 'bad.yaml');
  writeFileSync(file, `${policy('web', '8080')}---\n${policy('db', '99999')}`);
  const { code, stdout } = await runMain(['policy', 'validate', file]);
  assert.equal(code, 1);
  assert.match(
    stdout,
    /bad\.yaml:17: document 2, CiliumNetworkPolicy\/production\/db, spec\.ingress\[0\]\.toPorts\[0\][^:]*: error: /,
  );
  assert.match(stdout, /1 object valid, 1 not valid/);
  const json = await runMain(['policy', 'validate', file, '-o', 'json']);
  assert.equal(json.code, 1);
  const record = JSON.parse(json.stdout) as {
    ok: boolean;
    items: { severity: string; line: number; document: number }[];
  };
  assert.equal(record.ok, false);
  assert.deepEqual(
    record.items.map(({ severity, document }) => [severity, document]),
    [
      ['ok', 1],
      ['error', 2],
    ],
  );
});

test('a folder stands for its files, and one bad file is enough', async () => {
  const many = join(folder, 'many');
  mkdirSync(many);
  writeFileSync(join(many, 'a.yaml'), policy('a', '80'));
  writeFileSync(join(many, 'b.json'), '{');
  writeFileSync(join(many, 'notes.txt'), 'not a policy');
  const { code, stdout } = await runMain(['policy', 'validate', many]);
  assert.equal(code, 1);
  assert.match(stdout, /a\.yaml:1: .*: ok/);
  assert.match(stdout, /b\.json.*error/);
  assert.doesNotMatch(stdout, /notes/);
});

test('what cannot be read is an error, what is empty a warning', async () => {
  assert.equal((await runMain(['policy', 'validate', join(folder, 'none.yaml')])).code, 1);
  const { code, stdout } = await runMain(['policy', 'validate', '-'], { input: '# nothing\n' });
  assert.equal(code, 0);
  assert.match(stdout, /warning: there is no policy in it/);
});
