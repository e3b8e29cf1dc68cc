import assert from 'node:assert/strict';
import { test } from 'node:test';
import { redactText, redactValue } from '../../src/observe/redact.ts';

const SECRET = 'S3cr3tOfTheTest';
const PEM = `-----BEGIN PRIVATE KEY-----\n${SECRET}AAAA\nBBBB${SECRET}\n-----END PRIVATE KEY-----`;

const TEXTS: readonly string[] = [
  `password: ${SECRET}`,
  `  kvstore.password = "${SECRET}"`,
  `{"password":"${SECRET}","user":"x"}`,
  `{"msg":"{\\"token\\":\\"${SECRET}\\"}"}`,
  `MESH_AGENT_KVSTORE_PASSWORD=${SECRET}`,
  `password: two words, and a comma ${SECRET}`,
  `client-key-data: ${Buffer.from(PEM).toString('base64')}`,
  `passphrase: |\n  first ${SECRET}\n  second ${SECRET}\nnext: line`,
  `- token:\n    ${SECRET}\n`,
  `Authorization: Bearer ${SECRET}`,
  `authorization header was 'Basic ${SECRET}='`,
  `curl -H "X-Api-Key: ${SECRET}" https://example.com`,
  `https://admin:${SECRET}@store.example.com:2379/`,
  `https://admin:first@${SECRET}@store.example.com:2379/`,
  `joined with mat1_${SECRET}_abc`,
  `jwt eyJhbGciOiJIUzI1NiJ9.${SECRET}.sig${SECRET}`,
  PEM,
  `key\n-----BEGIN EC PRIVATE KEY-----\n${SECRET}\n(cut off here)`,
  JSON.stringify({ key: `-----BEGIN RSA PRIVATE KEY-----\n${SECRET}\n-----END RSA PRIVATE KEY-----\n` }),
  `secret_access_key=${SECRET}`,
  `Set-Cookie: ${SECRET}`,
  `url?api_key=${SECRET}&x=1`,
];

for (const text of TEXTS) {
  test(`no secret is left of: ${text.split('\n')[0]?.slice(0, 50)}`, () => {
    const left = redactText(text);
    assert.ok(!left.includes(SECRET), left);
    assert.ok(!left.includes(Buffer.from(PEM).toString('base64').slice(20, 60)), left);
    assert.match(left, /\[redacted\]/);
  });
}

test('the first line of a key hides what a key can have, and not the rest of a log', () => {
  const lines = Array.from({ length: 1000 }, (_, each) => `line ${each} of a log of many lines\n`).join('');
  const left = redactText(`before\n-----BEGIN PRIVATE KEY-----\n${lines}`);
  assert.match(left, /^before\n\[redacted\]/);
  assert.match(left, /line 999 of a log/);
  assert.ok(!left.includes('line 0 of'));
});

test('what is no secret stays', () => {
  const text = [
    'kvstore.key: /var/lib/mesh-agent/pki/agent.key',
    '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----',
    '10.244.1.5 identity 66536 k8s:app=frontend',
    'the join token is expired',
    'table inet mesh_agent { counter packets 5 bytes 300 }',
  ].join('\n');
  assert.equal(redactText(text), text);
});

test('fields are redacted by their names, at any depth, and headers of HTTP rules altogether', () => {
  const value = redactValue({
    kind: 'x',
    a: [{ clientSecret: SECRET, tokens: 5 }],
    http: [{ path: '/', headers: [`X-Any ${SECRET}`], headerMatches: [{ name: 'X-Any', value: SECRET }] }],
    deep: { text: `password=${SECRET}` },
  });
  assert.ok(!JSON.stringify(value).includes(SECRET));
  assert.deepEqual((value as { kind: string }).kind, 'x');
  assert.equal((value as { a: { tokens: number }[] }).a[0]?.tokens, 5);
});

test('text made to be slow is not', () => {
  for (const text of [
    'a'.repeat(2_000_000),
    'a.'.repeat(1_000_000),
    'a://b'.repeat(200_000),
    'secret'.repeat(300_000),
    '\\'.repeat(1_000_000),
    'token:'.repeat(200_000),
  ])
    assert.equal(typeof redactText(text), 'string');
});
