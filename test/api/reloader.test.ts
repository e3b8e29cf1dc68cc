import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Health } from '../../src/api/health.ts';
import { Reloader, type Taken } from '../../src/api/reloader.ts';
import { MeshError } from '../../src/core/errors.ts';
import { silentLog } from '../../src/observe/log.ts';

/** A reloader whose reloads end when the test says so. */
function reloaderOf() {
  const health = new Health(() => {});
  const busy: boolean[] = [];
  const ends: { readonly resolve: (taken: Taken) => void; readonly reject: (error: unknown) => void }[] = [];
  const reloader = new Reloader({
    files: ['a.yaml'],
    health,
    log: silentLog,
    onBusy: (is) => busy.push(is),
    reload: () => new Promise((resolve, reject) => ends.push({ resolve, reject })),
  });
  const codes = (): string[] => health.list().map(({ code }) => code);
  return { reloader, ends, busy, codes };
}

const TAKEN: Taken = { changed: ['audit'], waiting: [], files: ['a.yaml', 'b.yaml'] };
/** Whatever follows from a promise has happened. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test('requests during a reload are served by one more, and told as done only then', async () => {
  const { reloader, ends, busy } = reloaderOf();
  reloader.request();
  reloader.request();
  reloader.request();
  assert.deepEqual([ends.length, reloader.view.requested, reloader.view.completed], [1, 3, 0]);
  ends[0]?.resolve(TAKEN);
  await turn();
  assert.deepEqual([ends.length, reloader.view.completed], [2, 1]);
  ends[1]?.resolve(TAKEN);
  await reloader.idle();
  assert.deepEqual([ends.length, reloader.view.completed], [2, 3]);
  assert.deepEqual(busy, [true, false]);
  assert.deepEqual(reloader.view.files, TAKEN.files);
});

test('what is refused keeps files and waiting keys of before, and is a trouble until the next one is taken over', async () => {
  const { reloader, ends, codes } = reloaderOf();
  reloader.request();
  ends[0]?.resolve({ ...TAKEN, waiting: ['name'] });
  await reloader.idle();
  assert.deepEqual(codes(), ['CFG-RESTART']);
  reloader.request();
  ends[1]?.reject(new MeshError('CFG-VALUE', 'audit: no', { place: 'a.yaml:3' }));
  await reloader.idle();
  const { problems, waiting, changed, files } = reloader.view;
  assert.deepEqual([problems[0]?.place, waiting, changed, files], ['a.yaml:3', ['name'], [], TAKEN.files]);
  assert.deepEqual(codes().sort(), ['CFG-RELOAD', 'CFG-RESTART']);
  reloader.request();
  ends[2]?.resolve(TAKEN);
  await reloader.idle();
  assert.deepEqual([codes(), reloader.view.problems], [[], []]);
});
