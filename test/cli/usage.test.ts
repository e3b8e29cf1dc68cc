import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Command } from 'commander';
import { commandTree } from '../../src/cli/program.ts';
import { runHere } from './run-here.ts';

/** Every command that does something, with the words that lead to it. */
function leaves(command: Command, path: string[] = []): { command: Command; path: string[] }[] {
  if (command.commands.length === 0) return [{ command, path }];
  return command.commands.flatMap((each) => leaves(each, [...path, each.name()]));
}

test('the commands of the design are all there', () => {
  const paths = leaves(commandTree()).map(({ path }) => path.join(' '));
  for (const each of [
    'run',
    'status',
    'endpoint list',
    'identity list',
    'identity get',
    'node list',
    'service list',
    'service get',
    'ipcache list',
    'ipcache get',
    'policy list',
    'policy get',
    'policy validate',
    'bpf ipcache list',
    'bpf policy list',
    'config check',
    'config show',
    'version',
    'completion',
  ]) {
    assert(paths.includes(each), each);
  }
});

test('the help of every command has an example, and each example is understood', async () => {
  for (const { path } of leaves(commandTree())) {
    const { code, stdout, stderr } = await runHere([...path, '--help']);
    assert.deepEqual([code, stderr], [0, ''], path.join(' '));
    const examples = stdout
      .slice(stdout.indexOf('\nExamples:'))
      .split('\n')
      .slice(2)
      .filter((line) => line.trim() !== '');
    assert(examples.length > 0, path.join(' '));
    for (const example of examples) {
      const words = (example.trim().split(/ {3,}| > /)[0] ?? '').split(' ').slice(1);
      assert.deepEqual(words.slice(0, path.length), path, example);
      // The parser alone: an option or argument that does not exist throws.
      const program = commandTree();
      program.exitOverride();
      for (const each of leaves(program)) each.command.exitOverride().configureOutput({ writeErr: () => undefined });
      await program.parseAsync(words, { from: 'user' });
    }
  }
});

test('help shows the shared options that a command heeds, and no others', async () => {
  const help = async (...path: string[]): Promise<string> => (await runHere([...path, '--help'])).stdout;
  assert.match(await help('status'), /--socket <path>[\s\S]*-o, --output <format>/);
  assert.doesNotMatch(await help('completion'), /--socket|--output/);
  assert.doesNotMatch(await help('run'), /--output/);
  assert.doesNotMatch(await help('policy', 'validate'), /--socket/);
  assert.match(await help('run'), /--kvstore-endpoints <value>/);
  assert.doesNotMatch(await help('run'), /--kvstore-password/);
});

test('wrong usage is exit code 2, with a suggestion where there is one', async () => {
  for (const [words, said] of [
    ['statsu', /unknown command 'statsu'\n\(Did you mean status\?\)/],
    ['identity lst', /unknown command 'lst'\n\(Did you mean list\?\)/],
    ['bpf ipcache lst', /Did you mean list/],
    ['status --brif', /unknown option '--brif'\n\(Did you mean --brief\?\)/],
    ['status -o xml', /Allowed choices are table, wide, json, yaml/],
    ['status --wait soon', /whole number of seconds/],
    ['status --brief --verbose', /cannot be used with option/],
    ['status extra', /too many arguments/],
    ['identity get', /missing required argument 'id'/],
    ['identity get abc', /must be the number of an identity/],
    ['ipcache get 10.0.0.0/8', /must be an IPv4 or IPv6 address/],
    ['identity list --selector ,', /a selector has 1 to 64 terms/],
    ['completion tcsh', /Allowed choices are bash, zsh, fish/],
    ['policy validate', /missing required argument 'files'/],
    ['run extra', /too many arguments/],
    ['', /Usage: mesh-agent/],
    ['identity', /Usage: mesh-agent identity/],
  ] as const) {
    const { code, stdout, stderr } = await runHere(words === '' ? [] : words.split(' '));
    assert.deepEqual([code, stdout], [2, ''], words);
    assert.match(stderr, said, words);
  }
});

test('the version is one line for people and a record for scripts', async () => {
  assert.match((await runHere(['version'])).stdout, /^mesh-agent [0-9]+\.[0-9]+\.[0-9]+ \(commit .*\)\n$/);
  const record = JSON.parse((await runHere(['version', '-o', 'json'])).stdout) as { kind: string; version: string };
  assert.equal(record.kind, 'Version');
  assert.equal((await runHere(['--version'])).stdout, `${record.version}\n`);
});
