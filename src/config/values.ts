import { isAbsolute, normalize } from 'node:path';
import { formatAddress, formatPrefix, parseAddress, parseIpv4, parsePrefix } from '../core/ip.ts';
import type { NamedPort, TransportPort } from './config.ts';

/** One kind of value: checks what YAML gave, and turns the text of a variable or flag into what YAML would give. */
export interface ValueKind<T> {
  /** For messages and help: `a port number`. */
  readonly expects: string;
  /** Throws Unacceptable. */
  read(value: unknown): T;
  fromText(text: string): unknown;
}

/** Why a value is refused; `inside` leads to the part of it that is meant. */
export class Unacceptable extends Error {
  readonly inside: readonly (string | number)[];

  constructor(reason: string, inside: readonly (string | number)[] = []) {
    super(reason);
    this.inside = inside;
  }
}

/** Refused values are quoted, escaped and cut: they may be anything. A user in a URL is left out, with the password. */
export function quote(value: unknown): string {
  const text = (JSON.stringify(value) ?? String(value)).replace(/\/\/[^/@\s"]*@/g, '//[redacted]@');
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

const refuse = (value: unknown, expects: string): never => {
  const hint = typeof value === 'number' && expects.startsWith('text') ? '; put it into quotes' : '';
  throw new Unacceptable(`${quote(value)} is not ${expects}${hint}`);
};

export function text(expects: string, accept: (value: string) => boolean): ValueKind<string> {
  return {
    expects,
    read: (value) => (typeof value === 'string' && accept(value) ? value : refuse(value, expects)),
    fromText: (value) => value,
  };
}

export function choice<const T extends string>(...words: readonly T[]): ValueKind<T> {
  const expects = words.length === 1 ? `${words[0]}` : `one of ${words.join(', ')}`;
  return {
    expects,
    read: (value) => words.find((word) => word === value) ?? refuse(value, expects),
    fromText: (value) => value,
  };
}

export function integer(expects: string, first: number, last: number): ValueKind<number> {
  return {
    expects,
    read: (value) =>
      typeof value === 'number' && Number.isInteger(value) && value >= first && value <= last
        ? value
        : refuse(value, expects),
    fromText: (value) => (/^[0-9]{1,10}$/.test(value) ? Number(value) : value),
  };
}

export const maxClusters: ValueKind<255 | 511> = {
  expects: '255 or 511',
  read: (value) => (value === 255 || value === 511 ? value : refuse(value, '255 or 511')),
  fromText: (value) => Number(value),
};

export const boolean: ValueKind<boolean> = {
  expects: 'true or false',
  read: (value) => (typeof value === 'boolean' ? value : refuse(value, 'true or false')),
  fromText: (value) => (value === 'true' ? true : value === 'false' ? false : value),
};

export const path: ValueKind<string> = {
  expects: 'an absolute path',
  read: (value) =>
    typeof value === 'string' && isAbsolute(value) && !value.includes('\0')
      ? normalize(value)
      : refuse(value, 'an absolute path'),
  fromText: (value) => value,
};

/** An empty text stands for "not given". */
export function optional<T>(kind: ValueKind<T>): ValueKind<T | undefined> {
  return { ...kind, read: (value) => (value === '' ? undefined : kind.read(value)) };
}

export function list<T>(kind: ValueKind<T>, many: string): ValueKind<readonly T[]> {
  return {
    expects: `a list of ${many}`,
    read(value) {
      if (!Array.isArray(value)) return refuse(value, `a list of ${many}`);
      return value.map((item: unknown, index) => {
        try {
          return kind.read(item);
        } catch (error) {
          if (!(error instanceof Unacceptable)) throw error;
          throw new Unacceptable(error.message, [index, ...error.inside]);
        }
      });
    },
    fromText: (value) =>
      value
        .split(',')
        .map((item) => item.trim())
        .filter((item) => item !== '')
        .map((item) => kind.fromText(item)),
  };
}

/** A word, or else a list. */
export function wordOr<const W extends string, T>(word: W, kind: ValueKind<T>): ValueKind<W | T> {
  return {
    expects: `"${word}" or ${kind.expects}`,
    read: (value) =>
      value === word
        ? word
        : typeof value === 'string'
          ? refuse(value, `"${word}" or ${kind.expects}`)
          : kind.read(value),
    fromText: (value) => (value === word ? word : kind.fromText(value)),
  };
}

/** The store's URL: no path, no user. */
export const endpoint = text('an http:// or https:// URL of a host and a port', (value) => {
  if (!URL.canParse(value) || /[\s\\]/.test(value)) return false;
  const url = new URL(value);
  const plain = url.username === '' && url.password === '' && url.search === '' && url.hash === '';
  return (
    /^https?:$/.test(url.protocol) && plain && url.hostname !== '' && (url.pathname === '/' || url.pathname === '')
  );
});

/** An address of a machine, in canonical text. */
export function address(family: 4 | 6): ValueKind<string> {
  const expects = `an IPv${family} address of this machine`;
  return {
    expects,
    read(value) {
      const parsed = typeof value === 'string' ? parseAddress(value) : undefined;
      if (parsed === undefined || parsed.family !== family) return refuse(value, expects);
      const canonical = formatAddress(parsed);
      const first = (parsed.words[0] ?? 0) >>> 24;
      const unusable =
        family === 4 ? first === 0 || first === 127 || first >= 224 : first === 0xff || /^::1?$/.test(canonical);
      return unusable ? refuse(value, expects) : canonical;
    },
    fromText: (value) => value,
  };
}

const PROTOCOLS = { tcp: 6, udp: 17, sctp: 132 } as const;
export type ProtocolName = keyof typeof PROTOCOLS;

export function protocolName(protocol: TransportPort['protocol']): ProtocolName {
  return protocol === 6 ? 'tcp' : protocol === 17 ? 'udp' : 'sctp';
}

const PORT_EXPECTED = 'a protocol and a port such as tcp/22';

export const transportPort: ValueKind<TransportPort> = {
  expects: PORT_EXPECTED,
  read(value) {
    const match = typeof value === 'string' ? /^(tcp|udp|sctp)\/([1-9][0-9]{0,4})$/.exec(value.toLowerCase()) : null;
    const port = Number(match?.[2] ?? 0);
    if (match === null || port > 65535) return refuse(value, PORT_EXPECTED);
    return { protocol: PROTOCOLS[match[1] as ProtocolName], port };
  },
  fromText: (value) => value,
};

const PORT_NAME = /^(?=.*[a-z])(?!-)(?!.*--)[a-z0-9-]{1,15}(?<!-)$/;

/** `{http: tcp/8080, dns: [tcp/53, udp/53]}`; as text `http=tcp/8080,dns=udp/53`. */
export const namedPorts: ValueKind<readonly NamedPort[]> = {
  expects: 'a mapping of port names to ports such as {http: tcp/8080}',
  read(value) {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return refuse(value, namedPorts.expects);
    return Object.entries(value).flatMap(([key, ports]: [string, unknown]) => {
      const name = key.toLowerCase();
      if (!PORT_NAME.test(name)) {
        throw new Unacceptable(
          `${quote(key)} is no port name: at most 15 letters, digits and "-", one letter at least`,
          [key],
        );
      }
      return (Array.isArray(ports) ? ports : [ports]).map((port: unknown) => {
        try {
          return { name, ...transportPort.read(port) };
        } catch (error) {
          throw error instanceof Unacceptable ? new Unacceptable(error.message, [key]) : error;
        }
      });
    });
  },
  fromText(text) {
    const result: Record<string, string[]> = Object.create(null);
    for (const item of text.split(',').filter((part) => part.trim() !== '')) {
      const [name = '', port = ''] = item.trim().split('=', 2);
      result[name] = [...(result[name] ?? []), port];
    }
    return { ...result };
  },
};

/** A mapping of names to values of one kind; as text `name=value,name=value`. */
export function mapping<T>(
  kind: ValueKind<T>,
  name: ValueKind<string>,
  example: string,
): ValueKind<Readonly<Record<string, T>>> {
  const expects = `a mapping such as ${example}`;
  return {
    expects,
    read(value) {
      if (typeof value !== 'object' || value === null || Array.isArray(value)) return refuse(value, expects);
      const entries = Object.entries(value).map(([key, each]: [string, unknown]): [string, T] => {
        try {
          return [name.read(key), kind.read(each)];
        } catch (error) {
          throw error instanceof Unacceptable ? new Unacceptable(error.message, [key]) : error;
        }
      });
      return Object.fromEntries(entries);
    },
    fromText(text) {
      const pairs = text.split(',').filter((part) => part.trim() !== '');
      return Object.fromEntries(
        pairs.map((pair) => {
          const [key = '', ...rest] = pair.trim().split('=');
          return [key, kind.fromText(rest.join('='))];
        }),
      );
    },
  };
}

const DURATION_EXPECTED = 'a time such as 30s or 5m, up to a day';

const UNITS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600 };

/** Seconds; as text with a unit. */
export const duration: ValueKind<number> = {
  expects: DURATION_EXPECTED,
  read(value) {
    const text = typeof value === 'number' ? `${value}s` : String(value);
    const match = /^([0-9]{1,6})([smh])$/.exec(text);
    const seconds = Number(match?.[1]) * (UNITS[match?.[2] ?? ''] ?? Number.NaN);
    return seconds <= 86_400 ? seconds : refuse(value, DURATION_EXPECTED);
  },
  fromText: (value) => value,
};

/** A number that must not be smaller. */
export function atLeast(kind: ValueKind<number>, least: number): ValueKind<number> {
  return {
    ...kind,
    read(value) {
      const number = kind.read(value);
      return number >= least ? number : refuse(value, `${kind.expects}, and ${least} s at least`);
    },
  };
}

/** A prefix, in canonical text. */
export const prefix: ValueKind<string> = {
  expects: 'a prefix such as 10.96.0.0/12',
  read(value) {
    const parsed = typeof value === 'string' ? parsePrefix(value) : undefined;
    return parsed === undefined ? refuse(value, prefix.expects) : formatPrefix(parsed);
  },
  fromText: (value) => value,
};

/** `host:port`; `[::1]:9964`. Empty means off. */
export const listenAddress = text('an address and port such as 127.0.0.1:9964, or empty', (value) => {
  if (value === '') return true;
  const parts = splitListen(value);
  if (parts === undefined) return false;
  const { host, port } = parts;
  if (port > 65535) return false;
  if (/^[0-9.]+$/.test(host)) return parseIpv4(host) >= 0;
  return host.includes(':') ? parseAddress(host) !== undefined : /^[a-zA-Z0-9][a-zA-Z0-9.-]*$/.test(host);
});

/** An address that only this machine reaches, with a port. */
export const loopbackListen = text('an IPv4 loopback address and port such as 127.0.0.153:53', (value) => {
  const { host, port } = splitListen(value) ?? { host: '', port: 0 };
  return port >= 1 && port <= 65535 && parseIpv4(host) >>> 24 === 127;
});

/** The parts of a checked `host:port`; undefined for empty text. */
export function splitListen(listen: string): { host: string; port: number } | undefined {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]\s]+)):([0-9]{1,5})$/.exec(listen);
  return match === null ? undefined : { host: match[1] ?? match[2] ?? '', port: Number(match[3]) };
}

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.[0-9.]+$/.test(host);
}
