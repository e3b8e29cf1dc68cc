import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Reconciler } from '../../src/agent/reconciler.ts';
import { sleep } from '../../src/core/job.ts';
import type { DesiredChanges } from '../../src/datapath/desired.ts';

async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 5000;
  while (!condition()) {
    assert.ok(Date.now() < deadline, 'condition not met within 5 s');
    await sleep(2);
  }
}

function start(apply: (changes: DesiredChanges) => Promise<void>) {
  const applied: DesiredChanges[] = [];
  const failed: unknown[] = [];
  const abort = new AbortController();
  const loop = new Reconciler({
    collect: () => ({}),
    async apply(changes) {
      await apply(changes);
      applied.push(changes);
    },
    onApplied() {},
    onFailed: (error) => failed.push(error),
  });
  const done = loop.run(abort.signal);
  const stop = async (): Promise<void> => {
    abort.abort();
    await done;
  };
  return { loop, applied, failed, stop };
}

test('nothing is applied before the gate opens, and the first apply compares everything', async () => {
  const { loop, applied, stop } = start(async () => {});
  loop.add({ hosts4: [1] });
  await sleep(30);
  assert.equal(applied.length, 0);
  loop.open();
  await until(() => applied.length === 1);
  assert.equal(applied[0]?.everything, true);
  await stop();
});

test('a failed change set is applied again, together with what came meanwhile', async () => {
  let failures = 2;
  const { loop, applied, failed, stop } = start(async (changes) => {
    if (changes.everything !== true && failures-- > 0) throw new Error('kernel says no');
  });
  loop.open();
  await until(() => applied.length === 1);
  loop.add({ hosts4: [1, 2] });
  await until(() => failed.length === 1);
  loop.add({ hosts4: [3], prefixes: true });
  await until(() => applied.length === 2);
  assert.equal(failed.length, 2);
  assert.deepEqual([...(applied[1]?.hosts4 ?? [])].sort(), [1, 2, 3]);
  assert.equal(applied[1]?.prefixes, true);
  await stop();
});

test('changes that come during an apply are gathered into one next apply', async () => {
  let release = (): void => {};
  const { loop, applied, stop } = start(async (changes) => {
    if (changes.everything === true) await new Promise<void>((resolve) => (release = resolve));
  });
  loop.open();
  await sleep(30);
  for (let i = 0; i < 100; i++) loop.add({ hosts4: [i] });
  release();
  await until(() => applied.length === 2);
  assert.equal([...(applied[1]?.hosts4 ?? [])].length, 100);
  assert.equal(loop.lagMs, 0);
  await stop();
});
