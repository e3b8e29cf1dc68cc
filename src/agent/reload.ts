import { statSync } from 'node:fs';
import type { Taken } from '../api/reloader.ts';
import type { Config } from '../config/config.ts';
import type { KeyName } from '../config/keys.ts';
import { type LoadedConfig, type ReloadedConfig, reloadConfig } from '../config/load.ts';
import { MeshError } from '../core/errors.ts';
import type { Log } from '../observe/log.ts';

/**
 * Makes ready what may fail, and changes nothing yet; what is returned brings the configuration into force. Of another value are
 * the keys in `changed`. Throws MeshError when it is to be refused as a whole.
 */
export type Prepare = (config: Config, changed: ReadonlySet<KeyName>) => () => Promise<void>;

/** What `Reloader` does for an agent that was started with `started`. */
export function agentReload(
  started: LoadedConfig,
  { prepare, log }: { prepare: Prepare; log: Log },
): () => Promise<Taken> {
  let running = started;
  return async () => {
    const found = await reloadConfig(running);
    checkFolder(found);
    const { loaded, changed, waiting } = found;
    for (const { message, code, place } of loaded.warnings) log.warn(message, { code, place });
    const apply = prepare(loaded.config, changed);
    running = loaded;
    await apply();
    return { changed: [...changed], waiting, files: loaded.files };
  };
}

/** A folder that is not there has no policies: at a start it may come later, but here it would end the ones in force. */
function checkFolder({ loaded, changed }: ReloadedConfig): void {
  const path = loaded.config.policies;
  if (!changed.has('policies') || statSync(path, { throwIfNoEntry: false })?.isDirectory() === true) return;
  const place = loaded.origins.get('policies')?.place ?? path;
  throw new MeshError('CFG-FILE', `policies: there is no folder ${path}`, { place });
}
