import type { Health } from '../api/health.ts';
import { MeshError, messageOf } from '../core/errors.ts';
import { type WatchedDirectory, watchDirectory } from '../host/directory.ts';
import { type EtcdOptions, parseEtcdConfig } from '../kvstore/etcd-config.ts';
import { openStore } from '../kvstore/session.ts';
import type { Store } from '../kvstore/store.ts';
import type { Mesh } from '../mesh/mesh.ts';
import type { StoreEvents } from './store-events.ts';

export interface ClusterDirectoryOptions {
  readonly path: string;
  readonly mesh: Mesh;
  readonly health: Health;
  readonly events: StoreEvents;
  /** Endpoints changed. */
  readonly onChange: () => void;
}

interface Entry {
  readonly text: string;
  readonly etcd: EtcdOptions;
  readonly store: Store;
}

const MAX_BYTES = 1 << 16;

/**
 * Remote clusters by file: the name is the cluster's name, the content the etcd configuration that Cilium reads (kvstore
 * specification 4.1). Files without `endpoints:` (keys, certificates) are none of ours. A file that turns bad keeps its
 * connection; one that goes takes the cluster's facts with it.
 */
export class ClusterDirectory {
  readonly #options: ClusterDirectoryOptions;
  readonly #entries = new Map<string, Entry>();
  readonly #directory: WatchedDirectory;
  /** The file of the joined cluster, as long as it is the joined one. */
  readonly #ignored = new Map<string, string>();

  constructor(options: ClusterDirectoryOptions) {
    this.#options = options;
    this.#directory = watchDirectory({
      path: options.path,
      accept: (name) => !name.startsWith('.'),
      maxBytes: MAX_BYTES,
      onFile: (name, content) => this.#onFile(name, content.toString('utf8')),
      onGone: (name) => this.#onGone(name),
      onUnreadable: (name, error) => {
        const place = name === '' ? options.path : `${options.path}/${name}`;
        options.health.set(`cluster/${name}`, { code: 'CFG-FILE', text: messageOf(error), place });
      },
      onReadable: (name) => options.health.clear(`cluster/${name}`, 'CFG-FILE'),
    });
  }

  /** Resolves when the files that were there at the start are followed. */
  get first(): Promise<void> {
    return this.#directory.first;
  }

  get stores(): Store[] {
    return [...this.#entries.values()].map(({ store }) => store);
  }

  /** URLs of all stores. */
  get endpoints(): string[] {
    return [...this.#entries.values()].flatMap(({ etcd }) => etcd.endpoints);
  }

  /** The cluster that this machine joined has a connection of its own. */
  joined(name: string): void {
    const entry = this.#entries.get(name);
    if (entry !== undefined) {
      this.#entries.delete(name);
      this.#ignored.set(name, entry.text);
      void entry.store.close();
    }
    this.#options.health.clear(`cluster/${name}`, 'MSH-CLUSTER-FILE');
    for (const [former, text] of [...this.#ignored]) {
      if (former === name) continue;
      this.#ignored.delete(former);
      this.#onFile(former, text);
    }
    this.#options.onChange();
  }

  async close(): Promise<void> {
    this.#directory.close();
    await Promise.all([...this.#entries.values()].map(({ store }) => store.close()));
  }

  #onFile(name: string, text: string): void {
    const { mesh, health, path } = this.#options;
    if (!text.includes('endpoints:')) {
      this.#onGone(name);
      return;
    }
    if (name === mesh.joined?.name) {
      this.#ignored.set(name, text);
      return;
    }
    let etcd: EtcdOptions;
    try {
      etcd = parseEtcdConfig(text, `${path}/${name}`);
      health.clear(`cluster/${name}`, 'MSH-CLUSTER-FILE');
    } catch (error) {
      const place = error instanceof MeshError ? error.place : undefined;
      health.set(`cluster/${name}`, {
        code: 'MSH-CLUSTER-FILE',
        text: messageOf(error),
        place: place ?? `${path}/${name}`,
      });
      return;
    }
    this.#connect(name, text, etcd);
    this.#options.onChange();
  }

  #connect(name: string, text: string, etcd: EtcdOptions): void {
    const { mesh, events } = this.#options;
    const former = this.#entries.get(name);
    const entry: Entry = {
      text,
      etcd,
      store: openStore({
        etcd: async () => etcd,
        endpoints: etcd.endpoints,
        meshClient: true,
        onEvent: (event) => events(name, entry.store, event),
      }),
    };
    this.#entries.set(name, entry);
    if (former === undefined) mesh.addRemote(name, entry.store);
    else mesh.replaceStore(name, entry.store);
    void former?.store.close();
  }

  #onGone(name: string): void {
    const entry = this.#entries.get(name);
    this.#ignored.delete(name);
    this.#options.health.clear(`cluster/${name}`, 'MSH-CLUSTER-FILE');
    if (entry === undefined) return;
    this.#entries.delete(name);
    this.#options.mesh.removeRemote(name);
    void entry.store.close();
    this.#options.onChange();
  }
}
