import { printable } from './printable.ts';

const COLORS = { dim: '2', bold: '1', red: '31', yellow: '33', green: '32', cyan: '36' } as const;
type Color = keyof typeof COLORS;

const LEVELS: Readonly<Record<string, readonly [name: string, color: Color]>> = {
  trace: ['TRACE', 'dim'],
  debug: ['DEBUG', 'dim'],
  info: ['INFO ', 'green'],
  warn: ['WARN ', 'yellow'],
  error: ['ERROR', 'red'],
};
const ROOM_WIDTH = 10;
const INDENT = ' '.repeat(19);

/**
 * One JSON line of the log for people: time of day (UTC), level, room, message, then facts as `key=value`; what belongs
 * to an error stands below it.
 */
export function prettyLine(line: string, color: boolean): string {
  let facts: Record<string, unknown>;
  try {
    facts = JSON.parse(line) as Record<string, unknown>;
  } catch {
    return `${printable(line.trimEnd())}\n`;
  }
  const paint = (text: string, with_: Color): string => (color ? `\x1b[${COLORS[with_]}m${text}\x1b[0m` : text);
  const { time, level, room, msg, error, ...rest } = facts;
  const [name, tone] = LEVELS[String(level)] ?? ['INFO ', 'green'];
  const message = printable(String(msg ?? ''));
  const head = [
    paint(String(time).slice(11, 23), 'dim'),
    paint(name, tone),
    paint(printable(String(room ?? '')).padEnd(ROOM_WIDTH), 'cyan'),
    level === 'error' || level === 'warn' ? paint(message, 'bold') : message,
  ].join(' ');
  const tail = Object.entries(rest).map(([key, value]) => ` ${paint(`${printable(key)}=`, 'dim')}${shown(value)}`);
  return `${head}${tail.join('')}\n${errorLines(error, paint)}`;
}

function shown(value: unknown): string {
  if (typeof value === 'string' && /^[^\s"=]+$/.test(value)) return printable(value);
  return printable(JSON.stringify(value) ?? '');
}

function errorLines(error: unknown, paint: (text: string, color: Color) => string): string {
  if (typeof error !== 'object' || error === null) return '';
  const { message, code, place, remedy, causes, stack } = error as Record<string, unknown>;
  const lines: string[] = [];
  const add = (label: string, text: unknown): void => {
    if (typeof text === 'string') lines.push(`${INDENT}${paint(label.padEnd(8), 'dim')}${printable(text)}`);
  };
  add('error', code === undefined ? message : `${String(message)} (${String(code)})`);
  add('place', place);
  add('remedy', remedy);
  for (const cause of Array.isArray(causes) ? causes : []) add('cause', cause);
  if (typeof stack === 'string') {
    for (const frame of stack
      .split('\n')
      .filter((each) => each.startsWith('    at '))
      .slice(0, 8)) {
      add('', frame.trim());
    }
  }
  return lines.map((each) => `${each}\n`).join('');
}
