import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MeshError } from '../../src/core/errors.ts';
import { formatJoinToken, makeJoinToken, parseJoinToken } from '../../src/pki/join-token.ts';

const facts = {
  caHash: Buffer.alloc(32, 7).toString('base64url'),
  workload: 'web-1.example',
  hubs: ['https://hub.example.com:8443', 'https://[2001:db8::1]:8443'],
};

function problemOf(text: string): MeshError {
  try {
    parseJoinToken(text);
  } catch (error) {
    if (error instanceof MeshError) return error;
    throw error;
  }
  assert.fail('it was taken');
}

test('a token says the hub, the pin, the workload, its id and its secret', () => {
  const token = makeJoinToken(facts);
  assert.equal(token.secret.length * 8, 192);
  assert.match(token.id, /^[0-9a-f]{20}$/);
  assert.deepEqual(parseJoinToken(` ${formatJoinToken(token)}\n`), token);
});

test('no two tokens share an id or a secret', () => {
  const tokens = Array.from({ length: 500 }, () => makeJoinToken(facts));
  assert.equal(new Set(tokens.map(({ id }) => id)).size, 500);
  assert.equal(new Set(tokens.map(({ secret }) => secret.toString('hex'))).size, 500);
});

test('a token with any one wrong, swapped or missing character is told apart at once', () => {
  const text = formatJoinToken(makeJoinToken(facts));
  for (let at = 0; at < text.length; at++) {
    for (const other of ['A', 'b', '-', '9']) {
      if (text[at] === other) continue;
      const wrong = text.slice(0, at) + other + text.slice(at + 1);
      assert.equal(problemOf(wrong).code, 'JOIN-TOKEN', wrong);
    }
    const [here, next] = [text[at], text[at + 1]];
    if (next !== undefined && here !== next)
      assert.equal(problemOf(text.slice(0, at) + next + here + text.slice(at + 2)).code, 'JOIN-TOKEN');
    assert.equal(problemOf(text.slice(0, at)).code, 'JOIN-TOKEN');
  }
});

test('what is refused is not quoted: it may be nearly a secret', () => {
  const text = formatJoinToken(makeJoinToken(facts));
  const { message } = problemOf(`${text.slice(0, -1)}!`);
  assert.ok(!message.includes(text.slice(5, 20)), message);
});

test('a token cannot send a machine anywhere but to an https URL of a host and a port', () => {
  const bad = ['http://hub:8443', 'https://hub:8443/path', 'https://user@hub:8443', 'https://hub:99999', 'file:///x'];
  for (const hub of bad)
    assert.equal(problemOf(formatJoinToken(makeJoinToken({ ...facts, hubs: [hub] }))).code, 'JOIN-TOKEN');
});

test('any bytes are refused without harm', () => {
  for (let length = 0; length < 400; length++) {
    const junk = Buffer.alloc(length, length * 31);
    assert.equal(problemOf(`mat1_${junk.toString('base64url')}`).code, 'JOIN-TOKEN');
  }
  assert.equal(problemOf('x'.repeat(1 << 20)).code, 'JOIN-TOKEN');
});
