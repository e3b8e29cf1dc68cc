import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { type ApiServer, serveApi } from '../../src/api/server.ts';
import type { DrainRecord } from '../../src/api/types.ts';
import { MeshError } from '../../src/core/errors.ts';
import { memoryAgent, NOW } from '../api/memory-agent.ts';
import type { Ran } from './run-command.ts';
import { runHere } from './run-here.ts';

const folder = mkdtempSync(join(tmpdir(), 'mesh-drain-'));
const socket = join(folder, 'agent.sock');
let server: ApiServer;
/** What the agent answers, one after the other, and the last one for ever. */
let scenes: Partial<DrainRecord>[] = [];
let asked: (boolean | 'look')[] = [];
let refusal: MeshError | undefined;

function next(draining: boolean): DrainRecord {
  const scene = scenes.length > 1 ? scenes.shift() : scenes[0];
  return {
    ...{ apiVersion: 'mesh-agent/v1', kind: 'Drain', draining, services: ['shop/api'], published: [], connections: [] },
    ...(draining && { since: NOW }),
    ...scene,
  };
}

before(async () => {
  const api = memoryAgent({
    async drain() {
      asked.push('look');
      return next(true);
    },
    async setDrain(draining) {
      asked.push(draining);
      if (refusal !== undefined) throw refusal;
      return next(draining);
    },
  });
  server = await serveApi({ api, socket });
});
beforeEach(() => {
  scenes = [{}];
  asked = [];
  refusal = undefined;
});
after(async () => {
  await server.close();
  rmSync(folder, { recursive: true, force: true });
});

const drain = (...args: string[]): Promise<Ran> => runHere(['drain', ...args, '--socket', socket]);
const open = (count: number): Partial<DrainRecord> => ({ connections: [{ protocol: 'TCP', port: 8080, count }] });

test('it says what was done and what is left, and does not wait unless told to', async () => {
  scenes = [{ published: ['shop/api'], ...open(2) }];
  assert.deepEqual(await drain(), {
    code: 0,
    stdout:
      'This machine is drained: out of shop/api. Left: the hub still publishes it for shop/api; 2 connections (tcp/8080: 2).\n',
    stderr: '',
  });
  assert.equal((await drain('--undo')).stdout, 'This machine takes new connections.\n');
  assert.deepEqual(asked, [true, false]);
});

test('waiting ends when nothing was left for a while, and a connection that comes late counts', async () => {
  scenes = [{ published: ['shop/api'] }, {}, open(1), {}];
  const { code, stdout, stderr } = await drain('--wait', '-o', 'json');
  assert.equal(code, 0);
  assert.equal((JSON.parse(stdout) as DrainRecord).draining, true);
  assert.deepEqual(
    stderr
      .trimEnd()
      .split('\n')
      .map((line) => line.replace(/\(\d+s\)/, '(n)')),
    [
      'waiting (n): the hub still publishes it for shop/api',
      'waiting (n): nothing is left; looking whether it stays so',
      'waiting (n): 1 connection (tcp/8080: 1)',
      'waiting (n): nothing is left; looking whether it stays so',
    ],
  );
});

test('what is left when the time is over, or cannot be counted, is told by the exit code', async () => {
  scenes = [open(3)];
  const late = await drain('--wait', '--timeout', '1s');
  assert.equal(late.code, 4);
  assert.match(late.stdout, /Left: 3 connections \(tcp\/8080: 3\)\. The time is over\.\n$/);
  scenes = [{ connections: null, uncounted: 'no connection tracking' }];
  const blind = await drain('--wait', '--timeout', '1s');
  assert.equal(blind.code, 4);
  assert.match(blind.stdout, /connections cannot be counted: no connection tracking/);
  assert.equal((await drain()).code, 0);
});

test('a machine without a hub, and an agent that does not run, have exit codes of their own', async () => {
  refusal = new MeshError('AGT-DRAIN', 'this machine did not join a hub');
  const { code, stderr } = await drain();
  assert.equal(code, 5);
  assert.match(stderr, /this machine did not join a hub \(AGT-DRAIN\)/);
  assert.equal((await runHere(['drain', '--socket', join(folder, 'none.sock')])).code, 3);
  assert.equal((await drain('--undo', '--wait')).code, 2);
});
