import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { runFolder } from './main.ts';
import { ORDERS, runCase } from './run-case.ts';
import type { VectorCase } from './vector.ts';

const FOLDER = join(import.meta.dirname, 'vectors');
const cases = JSON.parse(readFileSync(join(FOLDER, 'basics.json'), 'utf8')) as readonly VectorCase[];

test('the vectors of this folder pass, in every order of facts', () => {
  const lines: string[] = [];
  const { passed, failed } = runFolder(FOLDER, (line) => lines.push(line));
  assert.deepEqual(lines, [`${cases.length} passed, 0 failed`]);
  assert.deepEqual([passed, failed], [cases.length, 0]);
});

test('a wrong verdict, mode or refusal is reported by case and flow', () => {
  for (const vector of cases) {
    for (const order of ORDERS) {
      const flows = (vector.flows ?? []).map((flow) => {
        return { ...flow, verdict: flow.verdict === 'allow' ? ('deny' as const) : ('allow' as const) };
      });
      const wrong =
        vector.error === true
          ? { ...vector, policies: [] }
          : { ...vector, flows, enforcing: { ingress: false, egress: vector.enforcing?.egress === true } };
      const differences = runCase(wrong, order);
      assert.equal(differences.length, vector.error === true ? 1 : flows.length + 1);
      for (const each of differences) assert.equal(each.case, vector.name);
    }
  }
});
