import type { Health } from '../api/health.ts';
import { messageOf } from '../core/errors.ts';
import { type WatchedDirectory, watchDirectory } from '../host/directory.ts';
import type { PolicyRepository } from '../policy/repository.ts';

export interface PolicyFolderOptions {
  readonly path: string;
  readonly repository: PolicyRepository;
  readonly health: Health;
  /** A document came, changed or went, or the folder can be read now. */
  readonly onChange: () => void;
}

const MAX_BYTES = 1 << 20;

/**
 * The policy documents of one folder, followed. They count from `lead` on, all at once: a folder that takes the place of another
 * one leaves no moment without policies.
 */
export class PolicyFolder {
  readonly path: string;
  /** Resolves when the folder and every file that is there was read: nobody knows what a file forbids that cannot be read. */
  readonly read: Promise<void>;
  readonly #options: PolicyFolderOptions;
  readonly #directory: WatchedDirectory;
  readonly #documents = new Map<string, string>();
  /** Subjects of the troubles that were told. */
  readonly #troubles = new Set<string>();
  /** Resolves `read`. */
  #done: () => void = () => {};
  #leads = false;
  #scanned = false;
  #unreadable: string | undefined;

  constructor(options: PolicyFolderOptions) {
    const { path } = options;
    this.path = path;
    this.#options = options;
    this.read = new Promise((resolve) => {
      this.#done = resolve;
    });
    this.#directory = watchDirectory({
      path,
      accept: (name) => /\.(ya?ml|json)$/.test(name) && !name.startsWith('.'),
      maxBytes: MAX_BYTES,
      onFile: (name, content) => this.#put(name, content.toString('utf8')),
      onGone: (name) => this.#remove(name),
      onUnreadable: (name, error) => this.#unread(name, messageOf(error)),
      onReadable: (name) => {
        this.#readable(name);
        // What can be read now is handed out right after this.
        setImmediate(() => this.#settle());
      },
    });
    void this.#directory.first.then(() => {
      this.#scanned = true;
      this.#settle();
      options.onChange();
    });
  }

  #settle(): void {
    if (this.#scanned && this.#troubles.size === 0) this.#done();
  }

  /** What is still to be read, in words. */
  get waitingFor(): string | undefined {
    if (!this.#scanned) return `reading the policies in ${this.path}`;
    // Nobody knows what they forbid.
    return this.#unreadable && `the policies in ${this.path} cannot be read: ${this.#unreadable}`;
  }

  /** From now on its documents are those of the machine, and those of the folder that led before are not. */
  lead(former?: PolicyFolder): void {
    this.#leads = true;
    const { repository, onChange } = this.#options;
    for (const [name, text] of this.#documents) repository.put('directory', name, text);
    const before = former === undefined ? [] : [...former.#documents.keys()];
    for (const name of before) if (!this.#documents.has(name)) repository.remove('directory', name);
    onChange();
  }

  close(): void {
    this.#directory.close();
    const { health } = this.#options;
    // Another folder may have told of a file of the same name.
    for (const subject of this.#troubles)
      if (health.of(subject).some(({ place }) => place?.startsWith(this.path))) health.clear(subject, 'CFG-FILE');
  }

  #put(name: string, text: string): void {
    this.#documents.set(name, text);
    if (!this.#leads) return;
    this.#options.repository.put('directory', name, text);
    this.#options.onChange();
  }

  #remove(name: string): void {
    this.#documents.delete(name);
    if (!this.#leads) return;
    this.#options.repository.remove('directory', name);
    this.#options.onChange();
  }

  #unread(name: string, text: string): void {
    const place = name === '' ? this.path : `${this.path}/${name}`;
    this.#troubles.add(`policy/${name}`);
    this.#options.health.set(`policy/${name}`, { code: 'CFG-FILE', text, place });
    if (name === '') this.#unreadable = text;
  }

  #readable(name: string): void {
    this.#troubles.delete(`policy/${name}`);
    this.#options.health.clear(`policy/${name}`, 'CFG-FILE');
    if (name === '') this.#unreadable = undefined;
    this.#options.onChange();
  }
}
