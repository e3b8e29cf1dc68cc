import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { native } from './load-native.ts';

type Collect = (options: { readonly type: 'major'; readonly execution: 'async' }) => Promise<void>;

/**
 * Gives back what a big load left behind. V8 keeps the memory of a start for minutes otherwise, since an agent at rest
 * allocates too little for it to look (100,000 addresses: 40 MB).
 */
export async function collectGarbage(): Promise<void> {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as Collect;
  setFlagsFromString('--no-expose-gc');
  await collect({ type: 'major', execution: 'async' });
}

/**
 * Gives back what of the program's own code and constants was needed for the start alone: Node's executable has over 100 MB,
 * of which a start touches 64 and an agent at rest some 20. Nothing is lost: a page that is needed again is mapped again.
 */
export function releaseProgram(): void {
  native().releaseProgram();
}
