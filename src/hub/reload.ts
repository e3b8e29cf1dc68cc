import { isDeepStrictEqual } from 'node:util';
import type { Taken } from '../api/reloader.ts';
import { HUB_LIVE_KEYS, type HubConfig } from './config.ts';
import type { HubFolder } from './folder.ts';
import { readHubConfig } from './init.ts';

/** What `Reloader` does for a hub: `apply` brings the live keys, of which `changed` have another value, into force. */
export function hubReload(
  folder: HubFolder,
  apply: (config: HubConfig, changed: readonly string[]) => Promise<void>,
): () => Promise<Taken> {
  const started = flat(readHubConfig(folder));
  let running = started;
  return async () => {
    const config = readHubConfig(folder);
    const found = flat(config);
    const live = new Set<string>(HUB_LIVE_KEYS);
    const differs = (from: ReadonlyMap<string, unknown>) => (key: string) =>
      !isDeepStrictEqual(found.get(key), from.get(key));
    const keys = [...new Set([...started.keys(), ...found.keys()])].sort();
    const changed = keys.filter((key) => live.has(key)).filter(differs(running));
    const waiting = keys.filter((key) => !live.has(key)).filter(differs(started));
    running = found;
    await apply(config, changed);
    return { changed, waiting, files: [folder.config] };
  };
}

/** `cluster.name` and so on, as the file has them. */
function flat(config: HubConfig): ReadonlyMap<string, unknown> {
  return new Map(
    Object.entries(config).flatMap(([group, value]: [string, unknown]): [string, unknown][] =>
      typeof value === 'object' && value !== null && !Array.isArray(value)
        ? Object.entries(value).map(([name, each]: [string, unknown]) => [`${group}.${name}`, each])
        : [[group, value]],
    ),
  );
}
