import { closeSync, write, writeSync } from 'node:fs';

/** Writes lines to a file descriptor in the background. */
export interface LineSink {
  write(line: string): void;
  /** Lines that were given up because nobody read them. */
  readonly dropped: number;
  /** Writes at once what waits; for the moment before a crash. Nothing when the reader is stuck: it would hold us up. */
  flush(): void;
  /** Writes there from now on, also what waits; the former descriptor is closed, unless it is standard output or error. */
  moveTo(fd: number, form: (line: string) => string): void;
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
const STANDARD_ERROR = 2;

/**
 * Not `process.stderr`, whose writes to a pipe stop the event loop while the pipe is full; not pino's own destination,
 * whose `flush` calls back before everything is written.
 */
export function openLineSink(fd: number, form: (line: string) => string): LineSink {
  return new FileSink(fd, form);
}

class FileSink implements LineSink {
  dropped = 0;
  #fd: number;
  #form: (line: string) => string;
  /** Of before, with a write that is under way. */
  readonly #former = new Set<number>();
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

  moveTo(fd: number, form: (line: string) => string): void {
    const before = this.#fd;
    this.#fd = fd;
    this.#form = form;
    if (before === fd) return;
    this.#former.add(before);
    if (this.#busySince === undefined) this.#closeFormer();
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

  #closeFormer(): void {
    for (const fd of this.#former) {
      this.#former.delete(fd);
      try {
        if (fd > STANDARD_ERROR) closeSync(fd);
      } catch {
        // What a full or lost disk has not taken: it is not ours any more either way.
        this.dropped++;
      }
    }
  }

  #writeNext(): void {
    this.#scheduled = false;
    this.#closeFormer();
    const next = this.#take();
    this.#busySince = next.length > 0 ? performance.now() : undefined;
    if (next.length > 0) this.#writeAll(this.#fd, next);
    else this.#onIdle?.();
  }

  #writeAll(fd: number, buffer: Buffer): void {
    write(fd, buffer, 0, buffer.length, null, (error, written) => {
      if (error?.code === 'EAGAIN') setTimeout(() => this.#writeAll(fd, buffer), RETRY_MS);
      else if (error === null && written < buffer.length) this.#writeAll(fd, buffer.subarray(written));
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
