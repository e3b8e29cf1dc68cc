import type { Health } from '../api/health.ts';
import { messageOf } from '../core/errors.ts';
import { type WatchedDirectory, watchDirectory } from '../host/directory.ts';
import { POLICIES_PREFIX } from '../kvstore/paths.ts';
import { policyRevision } from '../kvstore/policy-revision.ts';
import type { PrefixWatch, Store } from '../kvstore/store.ts';
import type { PolicyRepository } from '../policy/repository.ts';

export interface PolicyFeedOptions {
  readonly directory: string;
  readonly repository: PolicyRepository;
  readonly health: Health;
  /** A document came, changed or went. */
  readonly onChange: () => void;
}

const MAX_BYTES = 1 << 20;

/** Brings policy documents from the directory and from the joined store into the repository. */
export class PolicyFeed {
  readonly #options: PolicyFeedOptions;
  readonly #directory: WatchedDirectory;
  #store: PrefixWatch | undefined;
  /** Names of documents that came from the store, with their revisions. */
  readonly #present = new Map<string, number>();
  #scanned = false;
  /** Why the directory cannot be read, while it was not read yet. */
  #unreadable: string | undefined;

  constructor(options: PolicyFeedOptions) {
    const { repository, health, directory } = options;
    this.#options = options;
    this.#directory = watchDirectory({
      path: directory,
      accept: (name) => /\.(ya?ml|json)$/.test(name) && !name.startsWith('.'),
      maxBytes: MAX_BYTES,
      onFile: (name, content) => {
        repository.put('directory', name, content.toString('utf8'));
        options.onChange();
      },
      onGone: (name) => {
        repository.remove('directory', name);
        options.onChange();
      },
      onUnreadable: (name, error) => {
        const place = name === '' ? directory : `${directory}/${name}`;
        health.set(`policy/${name}`, { code: 'CFG-FILE', text: messageOf(error), place });
        if (name === '') this.#unreadable = messageOf(error);
      },
      onReadable: (name) => {
        health.clear(`policy/${name}`, 'CFG-FILE');
        if (name === '') this.#unreadable = undefined;
        options.onChange();
      },
    });
    void this.#directory.first.then(() => {
      this.#scanned = true;
      options.onChange();
    });
  }

  /** What is still to be read, in words. */
  get waitingFor(): string | undefined {
    const { directory } = this.#options;
    if (!this.#scanned) return `reading the policies in ${directory}`;
    // Nobody knows what they forbid.
    if (this.#unreadable !== undefined) return `the policies in ${directory} cannot be read: ${this.#unreadable}`;
    const store = this.#store;
    // An ordinary cluster may not let us read there, and has no policies for us.
    if (store === undefined || store.synced || /permission denied/.test(store.lastError ?? '')) return undefined;
    return 'listing the policies in the store';
  }

  /** Follows the policies of the store; nothing when it does already. */
  follow(store: Store): void {
    const { repository, onChange } = this.#options;
    const present = this.#present;
    let listed = new Set<string>();
    this.#store ??= store.watchPrefix(POLICIES_PREFIX, {
      listing: () => {
        listed = new Set();
      },
      put: (name, value, modRevision) => {
        listed.add(name);
        present.set(name, modRevision);
        repository.put('kvstore', name, value.toString('utf8'));
        onChange();
      },
      remove: (name) => {
        present.delete(name);
        repository.remove('kvstore', name);
        onChange();
      },
      listed: () => {
        for (const name of [...present.keys()]) {
          if (listed.has(name)) continue;
          present.delete(name);
          repository.remove('kvstore', name);
        }
        onChange();
      },
    });
  }

  /** Names the set of the store's policies that is in force, as the hub names the one that it hands out. */
  get storeRevision(): string {
    return policyRevision(this.#present.values());
  }

  /** The store lost its data: its policies stay in force until `follow`, when it is known to be complete again. */
  dataLost(): void {
    this.#store?.close();
    this.#store = undefined;
  }

  close(): void {
    this.#directory.close();
    this.#store?.close();
  }
}
