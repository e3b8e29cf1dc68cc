import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, fstatSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { MeshError } from '../../src/core/errors.ts';
import { type LogOptions, openLog, type RootLog } from '../../src/observe/log.ts';
import { until } from '../lab/namespace.ts';

const folder = mkdtempSync(join(tmpdir(), 'mesh-log-'));
after(() => rmSync(folder, { recursive: true, force: true }));
let count = 0;

/** What is written to the log, as text. */
async function written(options: Partial<LogOptions>, write: (log: RootLog) => void): Promise<string> {
  const path = join(folder, String(count++));
  const fd = openSync(path, 'w');
  const log = openLog({ level: 'info', format: 'auto', terminal: false, env: {}, ...options, fd });
  write(log);
  await log.close();
  closeSync(fd);
  return readFileSync(path, 'utf8');
}

const records = (text: string): Record<string, unknown>[] =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);

test('away from a terminal each line is one JSON object with time, level, room, message and facts', async () => {
  const text = await written({}, (log) => {
    log.info('starts', { version: '1.2.3' });
    log.child('kvstore', { cluster: 'b' }).child('watch').warn('lost', { prefix: 'cilium/state' });
  });
  const [first, second] = records(text);
  assert.match(String(first?.time), /^2[0-9]{3}-.*Z$/);
  assert.deepEqual({ ...first, time: '' }, { level: 'info', time: '', room: 'agent', version: '1.2.3', msg: 'starts' });
  assert.deepEqual(
    { ...second, time: '' },
    { level: 'warn', time: '', room: 'watch', cluster: 'b', prefix: 'cilium/state', msg: 'lost' },
  );
});

test('a log that moves on while it is written loses and mixes no line, and closes what it left', async () => {
  const paths = Array.from({ length: 4 }, () => join(folder, String(count++)));
  const fds = paths.map((path) => openSync(path, 'a'));
  const log = openLog({ level: 'info', format: 'auto', terminal: false, env: {}, fd: fds[0] ?? -1 });
  let said = 0;
  for (const fd of fds) {
    if (fd !== fds[0]) log.moveTo(fd);
    for (let i = 0; i < 3000; i++) log.info(`line ${said++}`, { filler: 'x'.repeat(100) });
    // Some of it is on its way, some waits.
    await new Promise((resolve) => setImmediate(resolve));
  }
  await log.close();
  const all = paths.flatMap((path) => records(readFileSync(path, 'utf8')).map(({ msg }) => msg));
  assert.deepEqual(
    all,
    Array.from({ length: said }, (_, index) => `line ${index}`),
  );
  for (const fd of fds.slice(0, -1)) assert.throws(() => fstatSync(fd), { code: 'EBADF' });
  closeSync(fds.at(-1) ?? -1);
});

test('the level holds for every room, also when it changes later', async () => {
  const text = await written({ level: 'warn' }, (log) => {
    const child = log.child('mesh');
    child.info('not this');
    child.warn('this');
    log.level = 'debug';
    child.debug('this too');
    child.trace('not that');
  });
  assert.deepEqual(
    records(text).map(({ msg }) => msg),
    ['this', 'this too'],
  );
});

test('an error keeps code, place, remedy and causes; a fault of the program keeps its stack', async () => {
  const text = await written({}, (log) => {
    const cause = new Error('outer', { cause: new Error('inner') });
    log.error('no store', { error: new MeshError('KVS-AUTH', 'no role', { place: 'cilium/state', cause }) });
    log.error('fault', { error: new TypeError('x is not a function') });
    log.error('odd', { error: 'a string' });
  });
  const [known, fault, odd] = records(text).map(({ error }) => error as Record<string, unknown>);
  assert.equal(known?.code, 'KVS-AUTH');
  assert.equal(known?.place, 'cilium/state');
  assert.match(String(known?.remedy), /role/);
  assert.deepEqual(known?.causes, ['outer', 'inner']);
  assert.equal(known?.stack, undefined);
  assert.match(String(fault?.stack), /log\.test\.ts/);
  assert.deepEqual(odd, { message: 'a string' });
});

test('secrets are never written', async () => {
  const write = (log: RootLog): void =>
    log.info('configuration', {
      password: 'hunter2',
      config: { kvstore: { password: 'hunter2', username: 'u' } },
      join: { token: 'hunter2' },
    });
  for (const format of ['json', 'pretty'] as const) {
    const text = await written({ format }, write);
    assert.doesNotMatch(text, /hunter2/);
    assert.match(text, /\[redacted\]/);
  }
});

test('text from outside cannot forge a line, color the screen or turn the reading order round', async () => {
  const evil = 'x\n{"level":"error"}\r\x1b[2J\x9b31m\u202egnp\u2028\ud800';
  const say = (log: RootLog): void => log.warn(evil, { key: evil, error: new Error(evil) });
  const json = await written({ format: 'json' }, say);
  assert.equal(json.trimEnd().split('\n').length, 1);
  assert.equal(String(records(json)[0]?.msg).slice(0, -1), evil.slice(0, -1));
  for (const text of [json, await written({ format: 'pretty' }, say)]) {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not be there
    assert.doesNotMatch(text, /[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029]/);
  }
});

test('on a terminal a line is short and aligned; colors obey NO_COLOR', async () => {
  const write = (log: RootLog): void => {
    log.info('ready', { tookMs: 12, name: 'a b' });
    log.child('kvstore').error('lost', { error: new MeshError('KVS-AUTH', '', { place: 'cilium/state' }) });
  };
  const plain = await written({ terminal: true, env: { NO_COLOR: '1' } }, write);
  const lines = plain.trimEnd().split('\n');
  assert.match(lines[0] ?? '', /^[0-9:.]{12} INFO {2}agent {6}ready tookMs=12 name="a b"$/);
  assert.match(lines[1] ?? '', /^[0-9:.]{12} ERROR kvstore {4}lost$/);
  assert.match(lines[2] ?? '', /^ +error +the store refuses access \(KVS-AUTH\)$/);
  assert.match(lines[3] ?? '', /^ +place +cilium\/state$/);
  assert.match(lines[4] ?? '', /^ +remedy +check that/);
  assert((await written({ terminal: true, env: {} }, write)).includes('\x1b[31mERROR\x1b[0m'));
  assert.match(await written({ terminal: false, env: {}, format: 'pretty' }, write), / ERROR kvstore/);
});

test('facts that cannot be written do not stop what is told', async () => {
  const loop: Record<string, unknown> = {};
  loop.self = loop;
  const text = await written({}, (log) => {
    log.info('loop', { loop });
    log.info('number', { big: 10n });
    log.info('getter', {
      get broken(): string {
        throw new Error('no');
      },
    });
  });
  assert.deepEqual(
    records(text).map(({ msg }) => msg),
    ['loop', 'number', 'getter'],
  );
});

test('what is said right before a crash is written', () => {
  const script = `
    import { openLog } from '${join(import.meta.dirname, '../../src/observe/log.ts')}';
    const log = openLog({ level: 'info', format: 'json', env: {} });
    log.info('first');
    setTimeout(() => {
      log.error('last');
      log.flush();
      process.kill(process.pid, 'SIGKILL');
    }, 50);
  `;
  const { stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    encoding: 'utf8',
    timeout: 60_000,
  });
  assert.deepEqual(
    records(stderr).map(({ msg }) => msg),
    ['first', 'last'],
  );
});

test('warnings and errors are counted by room', async () => {
  const seen: string[] = [];
  await written({ onProblem: (level, room) => seen.push(`${level} ${room}`) }, (log) => {
    log.info('fine');
    log.child('mesh').warn('hm');
    log.error('oh');
  });
  assert.deepEqual(seen, ['warn mesh', 'error agent']);
});

test('a reader that takes nothing neither stops the program nor fills its memory', async () => {
  const script = `
    import { openLog } from '${join(import.meta.dirname, '../../src/observe/log.ts')}';
    const log = openLog({ level: 'info', format: 'json', env: {} });
    for (let i = 0; i < 200_000; i++) log.info('a line that nobody reads', { i });
    const facts = { dropped: log.dropped, rss: process.memoryUsage().rss };
    process.stdout.write(JSON.stringify(facts), () => process.kill(process.pid, 'SIGKILL'));
  `;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  child.stdout.on('data', (chunk: Buffer) => {
    said += chunk.toString();
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), 60_000);
  await once(child, 'exit');
  clearTimeout(timer);
  child.stderr.destroy();
  await until('its words arrive', () => said !== '');
  const facts = JSON.parse(said) as { dropped: number; rss: number };
  assert(facts.dropped > 100_000, `${facts.dropped} lines were dropped`);
  assert(facts.rss < 400 << 20, `${facts.rss >>> 20} MB`);
});
