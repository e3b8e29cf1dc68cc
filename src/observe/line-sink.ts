import { pino } from 'pino';

/** Writes lines to a file descriptor in the background. */
export interface LineSink {
  write(line: string): void;
  /** Lines that were given up because nobody read them. */
  readonly dropped: number;
  /** At once, and only what is not being written already. */
  flush(): void;
  /** Waits for what is on its way, at most a second. */
  close(): Promise<void>;
}

/** What may wait for a slow reader, bytes; beyond it lines are dropped and counted. */
const MAX_WAITING = 4 << 20;
const CLOSE_MS = 1000;

export function openLineSink(fd: number, form: (line: string) => string): LineSink {
  const destination = pino.destination({ fd, sync: false, minLength: 0, maxLength: MAX_WAITING });
  let dropped = 0;
  destination.on('drop', () => dropped++);
  // The reader is gone: there is nobody left to tell.
  destination.on('error', () => dropped++);
  const atExit = (): void => flush();
  const flush = (): void => {
    try {
      destination.flushSync();
    } catch {
      dropped++;
    }
  };
  process.once('exit', atExit);
  return {
    write: (line) => void destination.write(form(line)),
    get dropped() {
      return dropped;
    },
    flush,
    async close() {
      process.off('exit', atExit);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, CLOSE_MS);
        destination.flush(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    },
  };
}
