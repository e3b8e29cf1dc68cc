import type { promises } from 'node:fs';
import { createRequire, syncBuiltinESMExports } from 'node:module';

/** Joins, and is killed right before the n-th file is put in its place or removed: `join-worker.ts n stateDir config token`. */
const [at = '0', stateDir = '', configFile = '', token = ''] = process.argv.slice(2);
const files = createRequire(import.meta.url)('node:fs/promises') as typeof promises;
let left = Number(at);
for (const name of ['rename', 'rm'] as const) {
  const original = files[name] as (...args: unknown[]) => Promise<void>;
  Object.assign(files, {
    [name]: (...args: unknown[]) => {
      if (--left === 0) process.kill(process.pid, 'SIGKILL');
      return original(...args);
    },
  });
}
syncBuiltinESMExports();
const { joinHub } = await import('../../src/agent/join/join.ts');
await joinHub({ stateDir, configFile, token });
