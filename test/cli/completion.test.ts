import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { completionScript } from '../../src/cli/completion-script.ts';
import { commandTree } from '../../src/cli/program.ts';

/** What bash offers after these words; the last one may be half written or empty. */
function offered(...words: string[]): string[] {
  const script = `${completionScript(commandTree(), 'bash')}
COMP_WORDS=("$@")
COMP_CWORD=$((\${#COMP_WORDS[@]} - 1))
_mesh_agent
printf '%s\\n' "\${COMPREPLY[@]}"`;
  const result = spawnSync('bash', ['--norc', '-s', '--', 'mesh-agent', ...words], { input: script, encoding: 'utf8' });
  assert.deepEqual([result.status, result.stderr], [0, '']);
  return result.stdout.trim().split('\n');
}

test('bash completes commands, options and their values', () => {
  assert.deepEqual(offered('ident'), ['identity']);
  assert.deepEqual(offered('identity', 'g'), ['get']);
  assert.deepEqual(offered('--socket', '/run/x', 'bpf', 'ipcache', 'l'), ['list']);
  assert.deepEqual(offered('identity', 'list', '--cl'), ['--cluster']);
  assert.deepEqual(offered('status', '-o', ''), ['table', 'wide', 'json', 'yaml']);
  assert.deepEqual(offered('status', '--output', 'j'), ['json']);
  assert.deepEqual(offered('completion', 'b'), ['bash']);
  const all = offered('');
  for (const each of commandTree().commands) assert(all.includes(each.name()), each.name());
});

test('every command is in the scripts of the other shells', () => {
  for (const shell of ['zsh', 'fish'] as const) {
    const script = completionScript(commandTree(), shell);
    for (const each of ['identity', 'ipcache', 'validate', '--selector', '--kvstore-endpoints', 'yaml']) {
      assert(script.includes(each.replace(/^--/, '')), `${shell}: ${each}`);
    }
  }
});
