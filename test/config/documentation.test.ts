import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { isLive, KEY_NAMES, KEYS, variableOf } from '../../src/config/keys.ts';

test('the page on configuration has every key with its variable, its meaning and what a reload does with it, and no other', () => {
  const page = readFileSync(join(import.meta.dirname, '../../docs/configuration.md'), 'utf8');
  const rows = page.split('\n').filter((line) => line.startsWith('| `'));
  assert.deepEqual(
    rows
      .map((row) => row.split('|').map((cell) => cell.trim().replaceAll('`', '')))
      .map((cells) => [cells[1], cells[2], cells[4], cells[5]]),
    KEY_NAMES.map((name) => [name, variableOf(name), KEYS[name].help, isLive(name) ? 'yes' : 'restart']),
  );
});
