import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { Namespace, until } from '../lab/namespace.ts';

let here: Namespace;
let there: Namespace;

before(() => {
  here = new Namespace('peers');
  there = new Namespace('peers-other');
  here.connect(there, {
    device: 'eth0',
    peerDevice: 'eth0',
    addresses: ['192.0.2.1/24', '2001:db8::1/64'],
    peerAddresses: ['192.0.2.2/24', '192.0.2.3/24', '2001:db8::2/64'],
  });
  here.run('ip', 'route', 'add', '198.51.100.0/24', 'via', '192.0.2.2');
  there.feed(
    'table inet t { chain c { type filter hook input priority 0; ct state new accept; }; }\n',
    'nft',
    '-f',
    '-',
  );
  // Connection tracking begins with the first rule that asks for it.
  here.feed(
    'table inet t { chain c { type filter hook output priority 0; ct state new accept; }; chain n { type nat hook output priority -100; ip daddr 198.51.100.9 dnat to 192.0.2.3; }; }\n',
    'nft',
    '-f',
    '-',
  );
});
after(async () => {
  await here.close();
  await there.close();
});

const SERVER = `
  const { createServer } = require('node:net');
  createServer((socket) => socket.on('error', () => {})).listen(7000, '::', () => console.log('ready'));
`;
const CLIENT = `
  const { connect } = require('node:net');
  for (const host of process.argv.slice(1)) connect(7000, host, () => console.log('connected'));
`;

function open(address: string): string {
  const script = join(import.meta.dirname, 'connections-reader.ts');
  return there.run(process.execPath, '--no-warnings', script, address, '6/7000', '17/7000').trim();
}

function peers(): string[] {
  const script = join(import.meta.dirname, 'connections-reader.ts');
  return here.run(process.execPath, '--no-warnings', script).trim().split('\n');
}

test('the addresses of open connections are told, before and after translation, and go with them', async () => {
  let said = '';
  const listen = (child: { stdout: NodeJS.ReadableStream | null }): void => {
    child.stdout?.on('data', (chunk: Buffer) => {
      said += chunk.toString();
    });
  };
  listen(there.start(process.execPath, ['-e', SERVER]));
  await until('the server is there', () => said.includes('ready'));
  const client = here.start(process.execPath, ['-e', CLIENT, '192.0.2.2', '2001:db8::2', '198.51.100.9']);
  listen(client);
  await until('all are connected', () => said.split('connected').length === 4);
  const found = peers();
  for (const each of ['192.0.2.2', '2001:db8::2', '198.51.100.9', '192.0.2.3']) assert.ok(found.includes(each), each);
  // The other end counts what is open to its ports: not what it opened to itself, nor what leads to another address.
  listen(there.start(process.execPath, ['-e', CLIENT, '192.0.2.2']));
  await until('that one is connected, too', () => said.split('connected').length === 5);
  assert.equal(open('192.0.2.2'), '6 7000: 1');
  assert.equal(open('2001:db8::2'), '6 7000: 1');
  assert.equal(open('192.0.2.9'), '');
  client.kill('SIGKILL');
  // What is left of them is TIME_WAIT or CLOSE, for minutes.
  await until('they are gone', () => !peers().some((each) => ['192.0.2.2', '192.0.2.3', '2001:db8::2'].includes(each)));
  await until('nor does the other end count it', () => open('2001:db8::2') === '');
});
