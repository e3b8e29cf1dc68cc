import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { openServiceManager } from '../../src/host/systemd.ts';

const directory = mkdtempSync(join(tmpdir(), 'mesh-notify-'));
const receivers: ChildProcess[] = [];

after(() => {
  for (const receiver of receivers) receiver.kill('SIGKILL');
  rmSync(directory, { recursive: true, force: true });
});

interface Receiver {
  /** Everything that arrived, once it matches. */
  until(pattern: RegExp): Promise<string>;
}

/** A real datagram socket; Node has none. */
async function receive(address: string): Promise<Receiver> {
  const socat = spawn('socat', ['-u', '-dd', address, 'STDOUT'], { stdio: ['ignore', 'pipe', 'pipe'] });
  receivers.push(socat);
  let text = '';
  let log = '';
  socat.stdout.on('data', (chunk: Buffer) => {
    text += chunk.toString();
  });
  socat.stderr.on('data', (chunk: Buffer) => {
    log += chunk.toString();
  });
  const wait = async (ready: () => boolean): Promise<void> => {
    const deadline = Date.now() + 10_000;
    while (!ready()) {
      assert.ok(Date.now() < deadline, `nothing came: ${text} ${log}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  };
  await wait(() => log.includes('starting data transfer loop'));
  return {
    until: async (pattern) => {
      await wait(() => pattern.test(text));
      return text;
    },
  };
}

test('states arrive at the socket of the service manager', async () => {
  const path = join(directory, 'notify');
  const receiver = await receive(`UNIX-RECV:${path}`);
  const env: NodeJS.ProcessEnv = { NOTIFY_SOCKET: path, OTHER: 'stays' };
  const manager = openServiceManager(env);
  assert.deepEqual(env, { OTHER: 'stays' });
  assert.equal(manager.present, true);
  manager.notifyReady('3 clusters');
  manager.notifyStatus('two\nREADY=0 lines');
  manager.notifyReloading();
  manager.startWatchdog();
  manager.notifyStopping();
  const text = await receiver.until(/STOPPING=1/);
  assert.match(
    text,
    /^READY=1\nSTATUS=3 clusters\nSTATUS=two READY=0 lines\nRELOADING=1\nMONOTONIC_USEC=\d+\nSTOPPING=1\n$/,
  );
});

test('an abstract name works, and the watchdog goes on by itself', async () => {
  const name = `mesh-notify-${process.pid}`;
  const receiver = await receive(`ABSTRACT-RECV:${name}`);
  const manager = openServiceManager({
    NOTIFY_SOCKET: `@${name}`,
    WATCHDOG_USEC: '40000',
    WATCHDOG_PID: String(process.pid),
  });
  manager.startWatchdog();
  await receiver.until(/(WATCHDOG=1\n){3}/);
  manager.stopWatchdog();
});

test('a watchdog that is meant for another process is not fed', async () => {
  const path = join(directory, 'other');
  const receiver = await receive(`UNIX-RECV:${path}`);
  const manager = openServiceManager({ NOTIFY_SOCKET: path, WATCHDOG_USEC: '2000', WATCHDOG_PID: '1' });
  manager.startWatchdog();
  await new Promise((resolve) => setTimeout(resolve, 20));
  manager.notifyStatus('end');
  assert.equal(await receiver.until(/end/), 'STATUS=end\n');
});

test('without a service manager, or with one that is gone, nothing happens', () => {
  const alone = openServiceManager({});
  assert.equal(alone.present, false);
  alone.notifyReady('x');
  alone.startWatchdog();
  openServiceManager({ NOTIFY_SOCKET: join(directory, 'gone') }).notifyReady('x');
  assert.equal(openServiceManager({ NOTIFY_SOCKET: 'relative' }).present, false);
});
