import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Difference, ORDERS, runCase } from './run-case.ts';
import type { VectorCase } from './vector.ts';

/** `main.ts DIR`: runs every vector file of a folder through the policy model, each case in every order. */
export function runFolder(folder: string, print: (line: string) => void): { passed: number; failed: number } {
  let passed = 0;
  let failed = 0;
  const files = readdirSync(folder).filter((name) => name.endsWith('.json'));
  for (const file of files.sort()) {
    const vectors = JSON.parse(readFileSync(join(folder, file), 'utf8')) as readonly VectorCase[];
    for (const vector of vectors) {
      const differences = ORDERS.flatMap((order) =>
        runCase(vector, order).map((each) => `${file} ${describe(each)} (${order})`),
      );
      for (const line of differences) print(line);
      if (differences.length === 0) passed++;
      else failed++;
    }
  }
  print(`${passed} passed, ${failed} failed`);
  return { passed, failed };
}

function describe({ case: name, flow, expected, got }: Difference): string {
  return `${name}: ${flow}: expected ${expected}, got ${got}`;
}

if (import.meta.main) {
  const folder = process.argv[2];
  if (folder === undefined) {
    process.stderr.write('usage: npm run conformance -- DIR\n');
    process.exitCode = 2;
  } else {
    const { passed, failed } = runFolder(folder, (line) => process.stdout.write(`${line}\n`));
    process.exitCode = failed > 0 || passed === 0 ? 1 : 0;
  }
}
