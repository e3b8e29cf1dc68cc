import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CommandError, type CommandFailure, type CommandOptions, run } from '../../src/host/command.ts';

async function failureOf(command: string, args: string[], options: CommandOptions = {}): Promise<CommandError> {
  const error = await run(command, args, options).then(
    () => undefined,
    (caught: unknown) => caught,
  );
  assert.ok(error instanceof CommandError, `${command} did not fail`);
  assert.equal(error.code, 'HST-COMMAND');
  return error;
}

const expectFailure = async (failure: CommandFailure, error: Promise<CommandError>): Promise<CommandError> => {
  assert.equal((await error).failure, failure);
  return error;
};

test('input goes in, output and exit code come out, and no shell looks at the words', async () => {
  const result = await run('cat', ['-', '/dev/null'], { input: 'a $HOME `x`\n' });
  assert.equal(result.stdout, 'a $HOME `x`\n');
  assert.equal(result.code, 0);
  assert.ok(result.pid > 0);
  assert.equal((await run('echo', ['$HOME; ls'])).stdout, '$HOME; ls\n');
});

test('a failing program hands over its exit code and its words', async () => {
  const error = await expectFailure('exit', failureOf('sh', ['-c', 'echo broken >&2; exit 3']));
  assert.equal(error.exitCode, 3);
  assert.equal(error.stderr, 'broken\n');
  assert.match(error.message, /exit code 3: broken/);
});

test('other exit codes may be accepted', async () => {
  assert.equal((await run('sh', ['-c', 'exit 1'], { accept: [0, 1] })).code, 1);
});

test('a missing program is told apart from one that fails', async () => {
  const error = await expectFailure('missing', failureOf('no-such-program-here', []));
  assert.match(error.message, /not installed/);
});

test('a program that hangs is killed at the deadline, even when a grandchild holds its output open', async () => {
  const started = Date.now();
  await expectFailure('timeout', failureOf('sh', ['-c', 'sleep 5 & sleep 20'], { timeoutMs: 100 }));
  assert.ok(Date.now() - started < 4000);
});

test('a program that floods its output is killed', async () => {
  await expectFailure('output', failureOf('sh', ['-c', 'yes'], { maxOutput: 100_000 }));
});

test('a program that does not read its input is judged by its exit code', async () => {
  assert.equal((await run('true', [], { input: Buffer.alloc(1 << 20) })).code, 0);
});

test('an abort ends the program', async () => {
  const abort = new AbortController();
  const failed = failureOf('sleep', ['20'], { signal: abort.signal });
  abort.abort();
  await expectFailure('aborted', failed);
  await expectFailure('aborted', failureOf('sleep', ['20'], { signal: AbortSignal.abort() }));
});
