import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { Turns } from '../../src/core/turns.ts';

/** Work that only the clock ends. */
function spin(ms: number): void {
  for (const end = performance.now() + ms; performance.now() < end; );
}

test('however many work, each turn of the event loop is held for one slice', async () => {
  const turns = new Turns();
  let turn = 0;
  let over = false;
  const steps = new Map<number, number>();
  const worker = async (): Promise<void> => {
    for (let step = 0; step < 20; step++) {
      if (turns.over) await turns.next();
      spin(1);
      steps.set(turn, (steps.get(turn) ?? 0) + 1);
    }
  };
  const count = async (): Promise<void> => {
    while (!over) {
      await nextTurn();
      turn++;
    }
  };
  const counting = count();
  await Promise.all(Array.from({ length: 20 }, worker));
  over = true;
  await counting;
  assert.equal(
    [...steps.values()].reduce((sum, number) => sum + number, 0),
    400,
  );
  // A step of a millisecond each, in a slice of eight; the one that waits begins before this counter is called.
  assert.ok(Math.max(...steps.values()) <= 17, `${[...steps.values()]}`);
});

test('whoever waits is served in the order of waiting, and nobody starves', async () => {
  const turns = new Turns();
  const served: number[] = [];
  const worker = async (id: number): Promise<void> => {
    for (let round = 0; round < 5; round++) {
      await turns.next();
      served.push(id);
      spin(10);
    }
  };
  await Promise.all([worker(1), worker(2), worker(3)]);
  assert.deepEqual(served, [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3]);
});

test('who waits without having asked is called all the same', async () => {
  const turns = new Turns();
  await turns.next();
  assert.equal(turns.over, false);
});
