import type { ServiceCheck } from './config.ts';
import { duration, integer, quote, Unacceptable, type ValueKind } from './values.ts';

const EXPECTED = 'a check such as tcp, tcp:8081, http:/healthz or none';

const DEFAULTS = { interval: 10, timeout: 2, rise: 2, fall: 3 } as const;
const count = integer('a whole number from 1 to 100', 1, 100);
const seconds: ValueKind<number> = {
  ...duration,
  read(value) {
    const read = duration.read(value);
    if (read === 0) throw new Unacceptable(`${quote(value)} is not a time of a second at least`);
    return read;
  },
};
const MEMBERS = { interval: seconds, timeout: seconds, rise: count, fall: count } as const;
const isMember = (name: string): name is keyof typeof MEMBERS => Object.hasOwn(MEMBERS, name);

/**
 * How the backends of a service are checked: `tcp`, `http:/path`, either with a port before the path, or `none`; or a
 * mapping with that as `check`, and `interval`, `timeout`, `rise`, `fall`.
 */
export const serviceCheck: ValueKind<ServiceCheck | 'none'> = {
  expects: EXPECTED,
  read(value) {
    if (typeof value === 'string') return readText(value, DEFAULTS);
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      throw new Unacceptable(`${quote(value)} is not ${EXPECTED}`);
    const { check, ...others }: Record<string, unknown> = { ...value };
    if (check === undefined) throw new Unacceptable(`there is no \`check\`: ${EXPECTED}`);
    if (typeof check !== 'string') throw new Unacceptable(`${quote(check)} is not ${EXPECTED}`, ['check']);
    const timing: Record<keyof typeof MEMBERS, number> = { ...DEFAULTS };
    for (const [name, member] of Object.entries(others)) {
      if (!isMember(name))
        throw new Unacceptable(`${quote(name)} is none of check, ${Object.keys(MEMBERS).join(', ')}`, [name]);
      timing[name] = MEMBERS[name].read(member);
    }
    if (timing.timeout > timing.interval)
      throw new Unacceptable(`a timeout of ${timing.timeout} s is longer than the interval of ${timing.interval} s`);
    return readText(check, timing);
  },
  fromText: (value) => value,
};

function readText(value: string, timing: Omit<ServiceCheck, 'type' | 'path' | 'port'>): ServiceCheck | 'none' {
  if (value === 'none') return 'none';
  // A path of what a request line takes as it is; it is never more than that.
  const match = /^(?:(tcp)(?::([1-9][0-9]{0,4}))?|(http):([1-9][0-9]{0,4})?(\/[!-~]{0,200}))$/.exec(value);
  const port = match?.[2] ?? match?.[4];
  if (match === null || Number(port ?? 1) > 65535) throw new Unacceptable(`${quote(value)} is not ${EXPECTED}`);
  return {
    type: match[1] === undefined ? 'http' : 'tcp',
    path: match[5] ?? '',
    ...(port !== undefined && { port: Number(port) }),
    ...timing,
  };
}
