import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { Namespace, until } from '../lab/namespace.ts';

let space: Namespace;
let output = '';

function listen(): ChildProcess {
  const child = space.start(process.execPath, [join(import.meta.dirname, 'packet-log-listener.ts')]);
  child.stdout?.on('data', (chunk: Buffer) => {
    output += chunk.toString('latin1');
  });
  child.stderr?.on('data', (chunk: Buffer) => {
    output += chunk.toString('latin1');
  });
  return child;
}

before(async () => {
  space = new Namespace('nflog');
  space.feed(
    `table inet t {
      chain c {
        type filter hook output priority 0;
        meta nfproto ipv4 udp dport 5353 log group 77 prefix "four"
        meta nfproto ipv6 udp dport 5353 log group 77 prefix "six"
      }
    }
`,
    'nft',
    '-f',
    '-',
  );
  listen();
  await until('the listener is there', () => output.includes('listening'));
});

after(() => space.close());

test('packets of both families are told with prefix, ends and payload', async () => {
  space.run('bash', '-c', 'echo -n hello >/dev/udp/127.0.0.1/5353');
  space.run('bash', '-c', 'echo -n there >/dev/udp/::1/5353');
  await until('both packets are told', () => output.includes('hello') && output.includes('there'));
  assert.match(output, /^4 four 127\.0\.0\.1:\d+ 127\.0\.0\.1:5353 17 hello$/m);
  assert.match(output, /^6 six ::1:\d+ ::1:5353 17 there$/m);
});

test('a second listener of a group is refused', async () => {
  listen();
  await until('the refusal is told', () => output.includes('EPERM'));
});
