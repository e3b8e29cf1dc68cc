import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Driver } from './suite/driver.ts';
import { buildSocketProgram, ServicesLab, targets4, targets6, VIP, v4, v6 } from './suite/services-lab.ts';

// What all kinds of sockets see of services that are led at the socket, whatever they are asked to do, one thing after the other.

const OTHER = '10.96.0.9';
const only4 = { targets: [targets4[0] as string] };
const only6 = { targets: [targets6[0] as string] };
const service = `${VIP.v4} 53`;
const service6 = `${VIP.v6} 53`;
const other = `${OTHER} 53`;
const direct = `${v4(11)} 8080`;
const direct6 = `${v6(11)} 8080`;
const mapped = (end: string): string => `::ffff:${end}`;

let lab: ServicesLab;
let driver: Driver;
let folder: string;
let program: string;
before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'mesh-kinds-'));
  program = buildSocketProgram(folder);
  lab = await ServicesLab.start({ container: false });
  driver = await lab.drive('sockets');
  await driver.apply({
    services: {
      [`${VIP.v4} 6 80`]: only4,
      [`${VIP.v4} 17 53`]: only4,
      [`${OTHER} 17 53`]: only4,
      [`${VIP.v6} 17 53`]: only6,
    },
  });
  // By packets, too, most of it would be so.
  assert.deepEqual((await driver.status()).services, { at: 'socket' });
});
after(async () => {
  await driver?.close();
  await lab?.close();
  rmSync(folder, { recursive: true, force: true });
});

/** What came of each step. */
function run(steps: string): string[] {
  const text = lab.machine.namespace.run(program, ...steps.split(' '));
  return text.trim().split('\n');
}

/** Every datagram that is sent is answered in the name of whoever it was sent to. */
function assertAnswered(kind: string, ends: readonly string[]): void {
  const lines = run([kind, ...ends.flatMap((end) => [`to ${end}`, 'from'])].join(' '));
  assert.deepEqual(
    lines.filter((line) => line.startsWith('from')),
    ends.map((end) => `from ${end}`),
  );
}

/** The same for a socket that is connected to one after the other. */
function assertConnected(kind: string, ends: readonly string[]): void {
  const lines = run([kind, ...ends.flatMap((end) => [`connect ${end}`, 'peer', 'send', 'from'])].join(' '));
  assert.deepEqual(
    lines.filter((line) => /^(peer|from)/.test(line)),
    ends.flatMap((end) => [`peer ${end}`, `from ${end}`]),
  );
}

test('a datagram socket that asks a service, its backend and another service with the same one knows who answers', () => {
  assertAnswered('udp4', [service, direct, service, other, service, direct, other]);
  assertAnswered('udp6', [service6, direct6, service6]);
  assertAnswered('udp6', [service, direct, other, service].map(mapped));
});

test('a datagram socket can be connected to a service, to its backend and back', () => {
  assertConnected('udp4', [service, direct, other, service]);
  assertConnected('udp6', [service6, direct6, service6]);
  assertConnected('udp6', [service, direct, service].map(mapped));
});

test('a datagram socket that dissolves its association, and one that sends past it', () => {
  const dissolved = run(`udp4 connect ${service} send from dissolve to ${direct} from to ${other} from`);
  assert.deepEqual(
    dissolved.filter((line) => line.startsWith('from')),
    [`from ${service}`, `from ${direct}`, `from ${other}`],
  );
  const past = run(`udp4 connect ${direct} peer to ${service} from send`);
  assert.deepEqual(past.slice(2), [`peer ${direct}`, 'to done', `from ${service}`, 'send done']);
});

test('many datagrams by one call', () => {
  assert.deepEqual(run(`udp4 many ${service} fromMany`).slice(3), [`fromMany ${service}`, `fromMany ${service}`]);
  assert.deepEqual(run(`udp6 many ${service6} fromMany`).slice(3), [`fromMany ${service6}`, `fromMany ${service6}`]);
});

test('connections that begin with data, after a failure, of MPTCP, and by IPv4 addresses of either kind', () => {
  const frontend = `${VIP.v4} 80`;
  assert.deepEqual(run(`tcp4 fast ${frontend} peer`).slice(1), ['fast done', `peer ${frontend}`]);
  assert.deepEqual(run(`tcp6 connect ${mapped(frontend)} peer`).slice(1), ['connect done', `peer ${mapped(frontend)}`]);
  assert.deepEqual(run(`udp6 connect ${service} peer`).slice(1), ['connect done', `peer ${mapped(service)}`]);
  assert.equal(run(`mptcp4 connect ${frontend}`)[1], 'connect done');
});

test('a backend that is the frontend of another service is led to once', async () => {
  const chained = { [`${v4(11)} 17 8080`]: { targets: [`${v4(12)} 8080`] } };
  await driver.apply({ services: { [`${VIP.v4} 17 53`]: only4, ...chained } });
  for (const steps of [
    `udp4 to ${service} from`,
    `udp4 connect ${service} send from`,
    `udp6 to ${mapped(service)} from`,
    `udp6 connect ${mapped(service)} send from`,
  ]) {
    lab.forget();
    assert.match(run(steps).at(-1) ?? '', /10\.96\.0\.1 53$/);
    assert.deepEqual(lab.counts(), { [v4(11)]: 1 }, steps);
  }
});

test('a connection made anew by a socket that a service had refused says who it is with', async () => {
  const closed = { targets: [`${v4(11)} 9`] };
  await driver.apply({ services: { [`${OTHER} 6 80`]: closed, [`${VIP.v4} 17 53`]: only4 } });
  await lab.backends.get(11)?.listen({ tcp: [10], udp: [] });
  const lines = run(`tcp4 connect ${OTHER} 80 connect ${v4(11)} 10 peer`);
  assert.deepEqual(lines.slice(1), ['connect ECONNREFUSED', 'connect done', `peer ${v4(11)} 10`]);
});

test('a socket for IPv6 alone gets to no IPv4 by a service', () => {
  assert.equal(run(`udp6 only6 to ${mapped(service)}`)[2], 'to ENETUNREACH');
});

test('UDP-Lite is no UDP: its datagrams go where they are sent', () => {
  lab.machine.namespace.feed(
    'table inet lite { counter frontend { }; chain out { type filter hook output priority 0; meta l4proto 136 ip daddr 10.96.0.1 counter name frontend drop; }; }',
    'nft',
    '-f',
    '-',
  );
  run(`udplite4 to ${service}`);
  assert.match(lab.machine.namespace.run('nft', 'list', 'counter', 'inet', 'lite', 'frontend'), /packets 1 /);
});

test('a socket belongs to the network namespace that it was made in, wherever its process is', () => {
  const elsewhere = `/run/netns/${lab.router.namespace.name}`;
  const here = `/run/netns/${lab.machine.namespace.name}`;
  assert.equal(run(`udp4 netns ${elsewhere} to ${service} from`).at(-1), `from ${service}`);
  assert.equal(run(`netns ${elsewhere} udp4 netns ${here} to ${service}`).at(-1), 'to ENETUNREACH');
});
