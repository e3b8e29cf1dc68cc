import type { Health } from '../api/health.ts';
import { POLICIES_PREFIX } from '../kvstore/paths.ts';
import { policyRevision } from '../kvstore/policy-revision.ts';
import type { PrefixWatch, Store } from '../kvstore/store.ts';
import type { PolicyRepository } from '../policy/repository.ts';
import { PolicyFolder } from './policy-folder.ts';

export interface PolicyFeedOptions {
  readonly directory: string;
  readonly repository: PolicyRepository;
  readonly health: Health;
  /** A document came, changed or went. */
  readonly onChange: () => void;
}

/** Brings policy documents from the directory and from the joined store into the repository. */
export class PolicyFeed {
  readonly #options: PolicyFeedOptions;
  #folder: PolicyFolder;
  /** The one that takes its place when it has been read. */
  #next: PolicyFolder | undefined;
  #store: PrefixWatch | undefined;
  /** Names of documents that came from the store, with their revisions. */
  readonly #present = new Map<string, number>();

  constructor(options: PolicyFeedOptions) {
    this.#options = options;
    this.#folder = this.#open(options.directory);
    this.#folder.lead();
  }

  /** What is still to be read, in words. */
  get waitingFor(): string | undefined {
    const folder = this.#folder.waitingFor;
    if (folder !== undefined) return folder;
    const store = this.#store;
    // An ordinary cluster may not let us read there, and has no policies for us.
    if (store === undefined || store.synced || /permission denied/.test(store.lastError ?? '')) return undefined;
    return 'listing the policies in the store';
  }

  /** Another folder is being read. */
  get moving(): boolean {
    return this.#next !== undefined;
  }

  /**
   * The documents are in another folder now. Those of the former one stay in force until all of the other one have been read; as long
   * as it cannot be read, that is.
   */
  moveTo(directory: string): void {
    this.#next?.close();
    this.#next = undefined;
    if (directory === this.#folder.path) return;
    const next = this.#open(directory);
    this.#next = next;
    void next.read.then(() => {
      if (this.#next !== next) return;
      const former = this.#folder;
      this.#folder = next;
      this.#next = undefined;
      next.lead(former);
      former.close();
    });
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
    this.#folder.close();
    this.#next?.close();
    this.#next = undefined;
    this.#store?.close();
  }

  #open(path: string): PolicyFolder {
    const { repository, health, onChange } = this.#options;
    return new PolicyFolder({ path, repository, health, onChange });
  }
}
