import { InvalidArgumentError, Option } from '../command.ts';

/** `key=value`, several of them. */
export function labelOption(flags: string, what: string): Option {
  return new Option(flags, what).argParser((text: string, before: Readonly<Record<string, string>> | undefined) => {
    const at = text.indexOf('=');
    if (at <= 0) throw new InvalidArgumentError('It must be key=value.');
    return { ...before, [text.slice(0, at)]: text.slice(at + 1) };
  });
}

/** The other way round, for people. */
export function labelsLine(labels: Readonly<Record<string, string>>): string {
  const all = Object.entries(labels).map(([key, value]) => (value === '' ? key : `${key}=${value}`));
  return all.join(', ') || 'none';
}
