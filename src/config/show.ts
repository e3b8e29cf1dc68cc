import type { NamedPort, TransportPort } from './config.ts';
import { isSecret, KEY_NAMES, type KeyName } from './keys.ts';
import type { LoadedConfig } from './load.ts';
import { protocolName } from './values.ts';

export interface ShownKey {
  readonly name: KeyName;
  /** As the file would say it; undefined when nothing is set. */
  readonly value: unknown;
  readonly origin: string;
}

/** Every key with its effective value and its origin. Secrets are left out. */
export function shownKeys(loaded: LoadedConfig): ShownKey[] {
  return KEY_NAMES.map((name) => {
    const value = valueAt(loaded.config, name);
    return {
      name,
      value: value !== undefined && isSecret(name) ? '[redacted]' : fileForm(name, value),
      origin: loaded.origins.get(name)?.place ?? 'default',
    };
  });
}

/** The same keys as a nested object, which is a configuration file again, but for its secrets. */
export function shownTree(keys: readonly ShownKey[]): Record<string, unknown> {
  const tree: Record<string, unknown> = {};
  for (const { name, value } of keys) {
    if (value === undefined || (Array.isArray(value) && value.length === 0 && name === 'kvstore.endpoints')) continue;
    const [group = '', member] = name.split('.');
    if (member === undefined) tree[group] = value;
    else tree[group] = { ...(tree[group] as object | undefined), [member]: value };
  }
  return tree;
}

function valueAt(config: object, name: KeyName): unknown {
  let value: unknown = config;
  for (const step of name.split('.')) {
    value = typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[step] : undefined;
  }
  return value;
}

const portText = ({ protocol, port }: TransportPort): string => `${protocolName(protocol)}/${port}`;

function fileForm(name: KeyName, value: unknown): unknown {
  if (name === 'failsafe.ingress' || name === 'failsafe.egress') return (value as TransportPort[]).map(portText);
  if (name !== 'namedPorts') return value;
  const ports: Record<string, string[]> = {};
  for (const each of value as NamedPort[]) ports[each.name] = [...(ports[each.name] ?? []), portText(each)];
  return Object.fromEntries(Object.entries(ports).map(([key, all]) => [key, all.length === 1 ? all[0] : all]));
}
