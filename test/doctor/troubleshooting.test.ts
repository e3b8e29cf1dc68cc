import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { troubleshootingPage } from '../../packaging/troubleshooting-page.ts';

test('the page on troubleshooting is what the table of codes says: make it anew with packaging/troubleshooting.ts', () => {
  const page = readFileSync(join(import.meta.dirname, '../../docs/troubleshooting.md'), 'utf8');
  assert.ok(page === troubleshootingPage());
});
