import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { runKernelCases, runKernelFolder } from './kernel.ts';
import { randomCases } from './random-cases.ts';

const FOLDER = join(import.meta.dirname, 'vectors');

test('the vectors of this folder pass through the kernel', async () => {
  const { walked, sent, differences } = await runKernelFolder(FOLDER, 10);
  assert.deepEqual(differences, []);
  assert.ok(walked > 0 && sent > 0);
});

test('policies at random, judged by the reference evaluator, get its verdicts from the kernel', async () => {
  const { walked, sent, differences } = await runKernelCases(randomCases(24), 2);
  assert.deepEqual(differences, []);
  assert.ok(walked >= 2000, `${walked} flows`);
  assert.ok(sent >= 300, `${sent} packets`);
});

test('a verdict that the kernel does not give is told of the tables and of the packet', async () => {
  const cases = randomCases(24).filter(({ enforcement }) => enforcement === 'default');
  const [vector] = cases.filter(({ flows = [] }) => new Set(flows.map(({ verdict }) => verdict)).size === 2);
  assert.ok(vector?.flows);
  const flows = vector.flows.map((flow) => {
    return { ...flow, verdict: flow.verdict === 'allow' ? ('deny' as const) : ('allow' as const) };
  });
  // What wrongly is to pass is waited for: two of each kind are enough.
  const few = flows.filter(({ proto, port }) => proto === 'TCP' && (port ?? 0) > 0);
  const { walked, sent, differences } = await runKernelCases([{ ...vector, flows: few }], 1);
  assert.ok(walked > 0 && sent > 0);
  assert.equal(differences.filter((line) => line.includes('the tables say')).length, walked);
  assert.equal(differences.filter((line) => line.includes('a packet met')).length, sent);
});

/** A folder of vectors elsewhere, in the same format. */
const elsewhere = process.env.MESH_CONFORMANCE;
if (elsewhere !== undefined && existsSync(elsewhere)) {
  test(`the vectors of ${elsewhere} pass through the kernel`, async () => {
    const { walked, sent, differences } = await runKernelFolder(elsewhere, 1);
    assert.deepEqual(differences, []);
    assert.ok(walked > 0 && sent >= 300);
  });
}
