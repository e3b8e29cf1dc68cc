import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { Repeats } from '../../src/observe/repeats.ts';

/** A clock that is moved by hand, and what was written under it. */
function scene(t: TestContext) {
  let now = 0;
  const timers = new Set<{ readonly at: number; readonly work: () => void }>();
  const said: string[] = [];
  const repeats = new Repeats({
    now: () => now,
    later(work, ms) {
      const timer = { at: now + ms, work };
      timers.add(timer);
      return () => timers.delete(timer);
    },
  });
  t.after(() => repeats.close());
  return {
    said,
    repeats,
    timers,
    say(key: string): void {
      const summary = (count: number, withinMs: number) =>
        said.push(`${now / 1000} ${key} x${count} in ${withinMs / 1000}`);
      if (repeats.admit({ key, summary })) said.push(`${now / 1000} ${key}`);
    },
    pass(seconds: number): void {
      const end = now + seconds * 1000;
      for (;;) {
        const [next] = [...timers].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at);
        if (next === undefined) break;
        timers.delete(next);
        now = next.at;
        next.work();
      }
      now = end;
    },
  };
}

test('a line that repeats every second for an hour is written twice and then summed up at growing intervals', (t) => {
  const { said, say, pass } = scene(t);
  for (let second = 0; second < 3600; second++) {
    say('lost');
    pass(1);
  }
  assert.deepEqual(said.slice(0, 5), [
    '0 lost',
    '1 lost',
    '60 lost x58 in 60',
    '180 lost x120 in 120',
    '420 lost x240 in 240',
  ]);
  assert.ok(said.length <= 8, said.join('\n'));
});

test('what stops is summed up once, and is news again after a quiet window', (t) => {
  const { said, say, pass } = scene(t);
  for (let i = 0; i < 5; i++) say('lost');
  pass(200);
  say('lost');
  pass(1000);
  assert.deepEqual(said, ['0 lost', '0 lost', '60 lost x3 in 60', '200 lost']);
});

test('one line that repeats does not hold back another, and so many different ones are not all remembered', (t) => {
  const { said, say, timers, repeats } = scene(t);
  for (let i = 0; i < 10; i++) for (let key = 0; key < 3000; key++) say(`line ${key}`);
  assert.equal(new Set(said.map((line) => line.split(' ').slice(1, 3).join(' '))).size, 3000);
  assert.ok(timers.size <= 1000, `${timers.size} timers`);
  const before = said.length;
  repeats.close();
  assert.ok(said.length >= before);
  assert.equal(timers.size, 0);
});
