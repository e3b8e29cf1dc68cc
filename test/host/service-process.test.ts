import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, test } from 'node:test';
import type { CommandError } from '../../src/host/command.ts';
import { ServiceProcess, type ServiceProcessOptions } from '../../src/host/service-process.ts';
import { until } from '../lab/namespace.ts';

const folder = mkdtempSync(join(tmpdir(), 'mesh-service-'));
const pidFile = join(folder, 'pid');
const lines: string[] = [];
let services: ServiceProcess[] = [];
afterEach(async () => {
  await Promise.all(services.map((service) => service.stop()));
  services = [];
  lines.length = 0;
});
after(() => rmSync(folder, { recursive: true, force: true }));

function supervise(script: string, more: Partial<ServiceProcessOptions> = {}): ServiceProcess {
  const service = new ServiceProcess({
    command: 'sh',
    arguments: () => ['-c', script],
    pidFile,
    onLine: (line) => lines.push(line),
    onChange: () => {},
    retryMinMs: 20,
    retryMaxMs: 100,
    ...more,
  });
  services.push(service);
  return service;
}

function alive(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) [ZX]/.test(readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch {
    return false;
  }
}

test('lines of both outputs are handed over, and a program that ends is started again', async () => {
  const service = supervise('echo out; echo err >&2; exit 3');
  await service.start();
  await until('it was started three times', () => service.status.starts >= 3);
  await until('its lines are there', () => lines.includes('out') && lines.includes('err'));
  await until('the end is told', () => service.status.lastExit?.reason === 'exit code 3');
  assert.deepEqual([...(service.status.lastExit?.lastLines ?? [])].sort(), ['err', 'out']);
});

test('a stop ends the program and starts none again, also one that ignores SIGTERM', async () => {
  const service = supervise('trap "" TERM; echo up; while :; do sleep 0.05; done', { stopMs: 200 });
  await service.start();
  await until('it runs', () => lines.includes('up'));
  const { pid } = service.status;
  await service.stop();
  assert.ok(pid !== undefined && !alive(pid));
  assert.deepEqual([service.status.state, service.status.starts], ['stopped', 1]);
});

test('a restart is a new process at once and no failure', async () => {
  const service = supervise('exec sleep 60');
  await service.start();
  const first = service.status.pid;
  await service.restart();
  await until('another one runs', () => service.status.pid !== undefined && service.status.pid !== first);
  assert.equal(service.status.lastExit, undefined);
});

test('a program that is missing is told at the start', async () => {
  const service = supervise('', { command: 'no-such-program-here' });
  await assert.rejects(service.start(), (error: CommandError) => error.failure === 'missing');
});

test('a supervisor that is killed leaves no program behind', async () => {
  const parent = spawn(
    process.execPath,
    [join(import.meta.dirname, 'service-process-parent.ts'), pidFile, 'sleep', '60'],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  let output = '';
  parent.stdout.on('data', (data: Buffer) => {
    output += data.toString();
  });
  await until('it runs', () => /running \d+/.test(output));
  const pid = Number(/running (\d+)/.exec(output)?.[1]);
  assert.ok(alive(pid));
  parent.kill('SIGKILL');
  await until('it is gone', () => !alive(pid));
});

test('a program of a life before is ended first; another process with its number is left alone', async () => {
  const orphan = spawn('sleep', ['60'], { stdio: 'ignore' });
  const stat = readFileSync(`/proc/${orphan.pid}/stat`, 'latin1').split(' ');
  const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
  const name = { pid: orphan.pid, started: String(Number(stat[21]) - 1), boot };
  writeFileSync(pidFile, JSON.stringify(name));
  const service = supervise('exec sleep 60');
  await service.start();
  assert.ok(alive(orphan.pid as number));
  await service.stop();
  writeFileSync(pidFile, JSON.stringify({ ...name, started: stat[21] }));
  await service.start();
  assert.ok(!alive(orphan.pid as number));
});
