import { write, writeSync } from 'node:fs';

/** Writes lines to a file descriptor in the background. */
export interface LineSink {
  write(line: string): void;
  /** Lines that were given up because nobody read them. */
  readonly dropped: number;
  /** Writes at once what waits; for the moment before a crash. Nothing when the reader is stuck: it would hold us up. */
  flush(): void;
  /** Waits for what is on its way, at most a second. */
  close(): Promise<void>;
}

/** What may wait for a slow reader, in characters; beyond it lines are dropped and counted. */
const MAX_WAITING = 4 << 20;
const MAX_WRITE = 64 << 10;
const RETRY_MS = 50;
/** A write that takes so long meets a reader that does not read. */
const STUCK_MS = 200;
const CLOSE_MS = 1000;

/**
 * Not `process.stderr`, whose writes to a pipe stop the event loop while the pipe is full; not pino's own destination,
 * whose `flush` calls back before everything is written.
 */
export function openLineSink(fd: number, form: (line: string) => string): LineSink {
  return new FileSink(fd, form);
}

class FileSink implements LineSink {
  dropped = 0;
  readonly #fd: number;
  readonly #form: (line: string) => string;
  readonly #atExit = (): void => this.flush();
  #waiting: string[] = [];
  #waitingLength = 0;
  #scheduled = false;
  /** When the write that is under way was begun. */
  #busySince: number | undefined;
  #onIdle: (() => void) | undefined;

  constructor(fd: number, form: (line: string) => string) {
    this.#fd = fd;
    this.#form = form;
    process.once('exit', this.#atExit);
  }

  write(line: string): void {
    if (this.#waitingLength > MAX_WAITING) {
      this.dropped++;
      return;
    }
    const text = this.#form(line);
    this.#waiting.push(text);
    this.#waitingLength += text.length;
    if (this.#scheduled || this.#busySince !== undefined) return;
    // What is said in one turn goes out together.
    this.#scheduled = true;
    setImmediate(() => this.#writeNext());
  }

  flush(): void {
    if (this.#busySince !== undefined && performance.now() - this.#busySince > STUCK_MS) return;
    try {
      for (let rest = this.#take(); rest.length > 0; rest = this.#take()) {
        while (rest.length > 0) rest = rest.subarray(writeSync(this.#fd, rest));
      }
    } catch {
      // A full pipe, or one without a reader: there is nobody to tell.
      this.dropped++;
    }
  }

  async close(): Promise<void> {
    process.off('exit', this.#atExit);
    if (this.#busySince === undefined && !this.#scheduled) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, CLOSE_MS);
      this.#onIdle = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #writeNext(): void {
    this.#scheduled = false;
    const next = this.#take();
    this.#busySince = next.length > 0 ? performance.now() : undefined;
    if (next.length > 0) this.#writeAll(next);
    else this.#onIdle?.();
  }

  #writeAll(buffer: Buffer): void {
    write(this.#fd, buffer, 0, buffer.length, null, (error, written) => {
      if (error?.code === 'EAGAIN') setTimeout(() => this.#writeAll(buffer), RETRY_MS);
      else if (error === null && written < buffer.length) this.#writeAll(buffer.subarray(written));
      else {
        if (error !== null) this.dropped++;
        this.#writeNext();
      }
    });
  }

  /** As many whole lines as one write should have. */
  #take(): Buffer {
    let length = 0;
    let count = 0;
    while (count < this.#waiting.length && length < MAX_WRITE) length += this.#waiting[count++]?.length ?? 0;
    this.#waitingLength -= length;
    return Buffer.from(this.#waiting.splice(0, count).join(''));
  }
}
