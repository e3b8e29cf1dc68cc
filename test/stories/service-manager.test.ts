import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { constants, existsSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { MeshLab } from '../lab/mesh-lab.ts';
import { endProcess, until } from '../lab/namespace.ts';
import { CLUSTER_A } from '../lab/story.ts';

// What systemd hears of an agent whose cluster does not know the machine yet, and then does.
let lab: MeshLab;
let listener: ChildProcess;
let heard = '';

const lines = (key: string): string[] => heard.split('\n').filter((line) => line.startsWith(`${key}=`));

before(async () => {
  lab = await MeshLab.start([CLUSTER_A], { workload: null });
  const socket = join(lab.folder, 'notify.sock');
  listener = spawn('socat', ['-u', `UNIX-RECV:${socket}`, 'STDOUT'], { stdio: ['ignore', 'pipe', 'inherit'] });
  listener.stdout?.on('data', (data: Buffer) => {
    heard += data.toString();
  });
  await until('the notify socket is there', () => existsSync(socket));
  Object.assign(process.env, { NOTIFY_SOCKET: socket, WATCHDOG_USEC: '400000' });
  // The start waits until there is something to read in it.
  const saved = join(lab.agent.stateDir, 'serving.json');
  execFileSync('mkfifo', [saved]);
  lab.agent.start();
  await until('it answers', () => existsSync(lab.agent.socket));
  let writer: FileHandle | undefined;
  await until('its start waits', async () => {
    writer = await open(saved, constants.O_WRONLY | constants.O_NONBLOCK).catch(() => undefined);
    return writer !== undefined;
  });
  process.kill(lab.agent.pid, 'SIGHUP');
  await writer?.writeFile('{"version":1,"checks":{}}');
  await writer?.close();
});

after(async () => {
  delete process.env.NOTIFY_SOCKET;
  delete process.env.WATCHDOG_USEC;
  await lab.close();
  await endProcess(listener);
});

test('an agent that waits says for what, and is not ready', async () => {
  await until('the status line names what is missing', () =>
    lines('STATUS').some((line) => /external workload/.test(line)),
  );
  assert.deepEqual(lines('READY'), []);
});

test('a reload that is asked for while it starts does not end it, and is done afterwards', async () => {
  await until('it is done', () => /the configuration was read again/.test(lab.agent.log));
  assert.ok(lab.agent.running);
});

test('signs of life come from the event loop', async () => {
  const before = lines('WATCHDOG').length;
  await until('the watchdog is fed', () => lines('WATCHDOG').length > before + 2);
});

test('it is ready when the machine is enforced, and says so in one line', async () => {
  await lab
    .cluster('cluster-a')
    .workloads.apply({ name: 'my-vm', labels: { app: 'backend' }, ipv4AllocCidr: '10.192.1.0/24' });
  await until('the agent is ready', () => lines('READY').length > 0, 30_000);
  await until('the status line tells of it', () =>
    /^STATUS=enforcing; 1\/1 clusters ready/.test(lines('STATUS').at(-1) ?? ''),
  );
  assert.equal(lines('READY').length, 1);
});

test('a reload begins and is over, also one that is refused', async () => {
  for (const [round, level] of ['debug', 'loud'].entries()) {
    lab.agent.configure({ log: { level } });
    process.kill(lab.agent.pid, 'SIGHUP');
    await until('the reload is over', () => lines('READY').length === 2 + round);
    assert.equal(lines('RELOADING').length, 1 + round);
    assert.match(lines('MONOTONIC_USEC').at(-1) ?? '', /=[0-9]+$/);
  }
  assert.match(lines('STATUS').at(-1) ?? '', /^STATUS=enforcing/);
});

test('it says that it stops', async () => {
  await lab.agent.stop();
  await until('the end is announced', () => lines('STOPPING').length === 1);
});
