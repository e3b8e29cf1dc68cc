import { parseSelector } from '../api/selector.ts';
import { messageOf } from '../core/errors.ts';
import { parseAddress } from '../core/ip.ts';
import { Argument, InvalidArgumentError, Option } from './command.ts';

/** Options and arguments that several commands share; a wrong value is a usage error before anything is asked. */
export function clusterOption(what = 'only those of this cluster'): Option {
  return new Option('--cluster <name>', what);
}

export function sourceOption(sources: string): Option {
  return new Option('--source <source>', `only those from this source (${sources})`);
}

export function selectorOption(): Option {
  return new Option('--selector <labels>', 'only those with these labels').argParser((text: string) => {
    try {
      parseSelector(text);
      return text;
    } catch (error) {
      throw new InvalidArgumentError(messageOf(error));
    }
  });
}

export function addressArgument(): Argument {
  return new Argument('<ip>', 'an IPv4 or IPv6 address').argParser((text: string) => {
    if (parseAddress(text) === undefined) throw new InvalidArgumentError('It must be an IPv4 or IPv6 address.');
    return text;
  });
}

export function identityArgument(): Argument {
  return new Argument('<id>', 'the number of an identity').argParser((text: string) => {
    if (!/^[0-9]{1,10}$/.test(text)) throw new InvalidArgumentError('It must be the number of an identity.');
    return text;
  });
}

/** The filters that were given, for the client. */
export function given<T extends object>(filters: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(filters).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}
