import { printable } from '../../observe/printable.ts';
import type { Terminal } from '../terminal.ts';

/** One line that tells a waiting person what is looked at; nothing for a program. */
export function progressLine({ interactive, error, columns = 80 }: Terminal): {
  readonly show: (done: number, of: number, title: string) => void;
  readonly clear: () => void;
} {
  if (!interactive) return { show: () => undefined, clear: () => undefined };
  return {
    show: (done, of, title) => error.write(`\r\x1b[K${printable(`[${done}/${of}] ${title}`).slice(0, columns - 1)}`),
    clear: () => error.write('\r\x1b[K'),
  };
}
