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

test('what the kernel could not tell of is counted to the packet, however much it is', async () => {
  space.feed(
    `table inet t {
      chain d { type filter hook output priority 0; udp dport 5454 counter log group 78 prefix "many" snaplen 64; }
      chain e { type filter hook input priority 0; udp dport 5454 drop; }
    }
`,
    'nft',
    '-f',
    '-',
  );
  const child = space.start(process.execPath, [join(import.meta.dirname, 'packet-log-counter.ts')]);
  let text = '';
  child.stdout?.on('data', (chunk: Buffer) => {
    text += chunk.toString();
  });
  await until('the counter listens', () => text.includes('listening'));
  const send = (words: string): string => `exec 3>/dev/udp/127.0.0.1/5454; ${words}`;
  space.run('bash', '-c', send('echo -n sleep >&3'));
  space.run('bash', '-c', send('for ((i = 0; i < 3000; i++)); do echo -n x >&3; done'));
  await until('it is awake again and tells', () => {
    space.run('bash', '-c', send('echo -n end >&3'));
    return text.split('\n').filter((line) => line.startsWith('{')).length > 0;
  });
  const sent = Number(/packets (\d+)/.exec(space.run('nft', 'list', 'chain', 'inet', 't', 'd'))?.[1]);
  await until('all is accounted for', () => {
    const last = text.split('\n').findLast((line) => line.startsWith('{')) ?? '{}';
    const { told, missed, hooks } = JSON.parse(last) as { told: number; missed: number; hooks: number[] };
    assert.deepEqual(hooks, [3], 'the hook of what leaves');
    return missed > 0 && told + missed === sent;
  });
});
