import { join } from 'node:path';
import { bundled } from './build.ts';

/**
 * Files that travel with the program, in three worlds: next to the bundle (`node dist/main.cjs`), in the virtual
 * `/snapshot` of the executable, and in `dist/` below the source tree. Only `fs.readFileSync` is sure to work on them.
 */
export function assetPath(name: string): string {
  // The bundler turns `import.meta.dirname` into the folder of the bundle.
  return bundled ? join(import.meta.dirname, name) : join(import.meta.dirname, '../../dist', name);
}

/** Whether a path lies inside the executable, where the dynamic loader cannot see it. */
export function isInsideExecutable(path: string): boolean {
  return path.startsWith('/snapshot/');
}
