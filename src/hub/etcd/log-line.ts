import type { Log } from '../../observe/log.ts';

/** Warnings that mean nothing here: users have no tokens, and what a request is refused for is told to who asked. */
const CHATTER = /^(simple token is not cryptographically signed|failed to apply request|request stats)/;

/** What etcd says, in our log. Its `info` is our `debug`: it tells of every connection that ends. */
export function logEtcdLine(log: Log, line: string): void {
  const fields = parse(line);
  if (fields === undefined) {
    if (line.trim() !== '') log.info('etcd says', { line });
    return;
  }
  const { level, msg, ts: _time, caller: _caller, ...facts } = fields;
  const text = `etcd: ${String(msg)}`;
  if (level === 'error' || level === 'panic' || level === 'fatal' || level === 'dpanic') log.error(text, facts);
  else if (level === 'warn' && !CHATTER.test(String(msg))) log.warn(text, facts);
  else log.debug(text, facts);
}

function parse(line: string): Record<string, unknown> | undefined {
  if (!line.startsWith('{')) return undefined;
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}
