import { isatty } from 'node:tty';
import { type Logger, pino, stdTimeFunctions } from 'pino';
import { messageOf } from '../core/errors.ts';
import { errorFacts } from './error-facts.ts';
import { type LineSink, openLineSink } from './line-sink.ts';
import { prettyLine } from './pretty-line.ts';
import { printableJson } from './printable.ts';
import { Repeats } from './repeats.ts';

/** What goes with a message. `error` may be anything that was thrown; MeshError keeps code, place and remedy. */
export type LogFacts = Readonly<Record<string, unknown>>;

export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error';

/** Says something to whoever runs the machine. Never throws, never waits. */
export interface Log {
  trace(message: string, facts?: LogFacts): void;
  debug(message: string, facts?: LogFacts): void;
  info(message: string, facts?: LogFacts): void;
  warn(message: string, facts?: LogFacts): void;
  error(message: string, facts?: LogFacts): void;
  /** The log of a part of the program; facts go with every line. */
  child(room: string, facts?: LogFacts): Log;
}

export interface RootLog extends Log {
  level: LogLevel;
  /** Lines that were given up because nobody read them. */
  readonly dropped: number;
  /** Goes on there, standard error by default, in the form that is for such a place. The former one is closed. */
  moveTo(fd?: number): void;
  /** Writes out what waits, at once; for the moment before a crash. */
  flush(): void;
  /** Waits until everything is written, at most a second. */
  close(): Promise<void>;
}

export interface LogOptions {
  readonly level: LogLevel;
  /** `auto`: for people on a terminal, else one JSON object a line, as journald and collectors want it. */
  readonly format: 'auto' | 'json' | 'pretty';
  /** Standard error by default. */
  readonly fd?: number;
  readonly terminal?: boolean;
  readonly env?: NodeJS.ProcessEnv;
  /** Lines that repeat are summed up at growing intervals; debug and trace excepted. */
  readonly sumsUp?: boolean;
  /** Told of every line of level warn or error, for counters. */
  onProblem?(level: 'warn' | 'error', room: string): void;
}

const ROOT_ROOM = 'agent';
const STANDARD_ERROR = 2;

/** Secrets that facts might carry, at the depths at which our records do. */
const SECRETS = ['password', 'token', 'privateKey', 'secret'].flatMap((name) => [name, `*.${name}`, `*.*.${name}`]);

export function openLog(options: LogOptions): RootLog {
  const fd = options.fd ?? STANDARD_ERROR;
  const sink = openLineSink(fd, formFor(fd, options));
  // The level is ours, since pino's children keep the one that they were made with.
  const base = pino(
    {
      level: 'trace',
      base: null,
      timestamp: stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: SECRETS, censor: '[redacted]' },
      serializers: { error: errorFacts },
    },
    sink,
  );
  const shared = {
    base,
    sink,
    formOf: (place: number) => formFor(place, options),
    repeats: options.sumsUp === true ? new Repeats() : undefined,
    level: options.level,
    onProblem: options.onProblem ?? (() => undefined),
  };
  return new RoomLog(shared, ROOT_ROOM, {});
}

function formFor(fd: number, { format, ...options }: LogOptions): (line: string) => string {
  const env = options.env ?? process.env;
  const terminal = options.terminal ?? isatty(fd);
  const pretty = format === 'pretty' || (format === 'auto' && terminal);
  const color = pretty && terminal && (env.NO_COLOR ?? '') === '' && env.TERM !== 'dumb';
  return pretty ? (line) => prettyLine(line, color) : jsonLine;
}

function jsonLine(line: string): string {
  return `${printableJson(line.trimEnd())}\n`;
}

/** A log that says nothing. */
export const silentLog: Log = {
  trace: () => undefined,
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => silentLog,
};

const LEVELS: Readonly<Record<LogLevel, number>> = { trace: 10, debug: 20, info: 30, warn: 40, error: 50 };

interface Shared {
  readonly base: Logger;
  readonly sink: LineSink;
  readonly formOf: (fd: number) => (line: string) => string;
  readonly repeats: Repeats | undefined;
  readonly onProblem: (level: 'warn' | 'error', room: string) => void;
  level: LogLevel;
}

class RoomLog implements RootLog {
  readonly #shared: Shared;
  readonly #room: string;
  readonly #facts: LogFacts;
  readonly #logger: Logger;

  constructor(shared: Shared, room: string, facts: LogFacts) {
    this.#shared = shared;
    this.#room = room;
    this.#facts = facts;
    this.#logger = shared.base.child({ room, ...facts });
  }

  get level(): LogLevel {
    return this.#shared.level;
  }

  set level(level: LogLevel) {
    this.#shared.level = level;
  }

  get dropped(): number {
    return this.#shared.sink.dropped;
  }

  moveTo(fd = STANDARD_ERROR): void {
    const { sink, formOf } = this.#shared;
    sink.moveTo(fd, formOf(fd));
  }

  flush(): void {
    this.#shared.repeats?.close();
    this.#shared.sink.flush();
  }

  close(): Promise<void> {
    this.#shared.repeats?.close();
    return this.#shared.sink.close();
  }

  trace(message: string, facts?: LogFacts): void {
    this.#write('trace', message, facts);
  }

  debug(message: string, facts?: LogFacts): void {
    this.#write('debug', message, facts);
  }

  info(message: string, facts?: LogFacts): void {
    this.#write('info', message, facts);
  }

  warn(message: string, facts?: LogFacts): void {
    this.#shared.onProblem('warn', this.#room);
    this.#write('warn', message, facts);
  }

  error(message: string, facts?: LogFacts): void {
    this.#shared.onProblem('error', this.#room);
    this.#write('error', message, facts);
  }

  child(room: string, facts: LogFacts = {}): Log {
    return new RoomLog(this.#shared, room, { ...this.#facts, ...facts });
  }

  #write(level: LogLevel, message: string, facts: LogFacts = {}): void {
    if (LEVELS[level] < LEVELS[this.#shared.level]) return;
    const { repeats } = this.#shared;
    if (repeats === undefined || LEVELS[level] < LEVELS.info) {
      this.#say(level, message, facts);
      return;
    }
    const key = `${level} ${this.#room} ${message} ${textOf(this.#facts)} ${textOf(facts)}`;
    const summary = (repeated: number, withinMs: number): void =>
      this.#say(level, message, { ...facts, repeated, withinSeconds: Math.round(withinMs / 1000) });
    if (repeats.admit({ key, summary })) this.#say(level, message, facts);
  }

  #say(level: LogLevel, message: string, facts: LogFacts): void {
    try {
      this.#logger[level](facts, message);
    } catch {
      // Facts that cannot be written (a getter that throws) must not stop what is being told about.
      this.#logger[level](message);
    }
  }
}

/** What of the facts tells one line from another: of an error its words, and no stack. */
function textOf(facts: LogFacts): string {
  try {
    const { error, ...rest } = facts;
    return `${JSON.stringify(rest)} ${error === undefined ? '' : messageOf(error)}`;
  } catch {
    return '';
  }
}
