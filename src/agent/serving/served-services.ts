import { messageOf } from '../../core/errors.ts';
import { type LabelSet, NAMESPACE_LABEL } from '../../core/labels.ts';
import { decodeMachineService, type MachineService } from '../../kvstore/codec/machine-service.ts';
import { MACHINE_SERVICES_PREFIX } from '../../kvstore/paths.ts';
import type { PrefixWatch, Store } from '../../kvstore/store.ts';
import { selectsMachine } from '../../service/selection.ts';

/** The services of the hub, and which of them have this machine as a backend. */
export class ServedServices {
  readonly #onChange: () => void;
  readonly #services = new Map<string, MachineService>();
  readonly #unreadable = new Map<string, string>();
  #labels: LabelSet = [];
  #store: Store | undefined;
  #watch: PrefixWatch | undefined;
  #listed = false;

  constructor(onChange: () => void) {
    this.#onChange = onChange;
  }

  /** Follows what this store says; nothing when it does already. Facts stay while it is away. */
  follow(store: Store): void {
    if (store === this.#store) return;
    this.#watch?.close();
    this.#store = store;
    let present = new Set<string>();
    this.#watch = store.watchPrefix(MACHINE_SERVICES_PREFIX, {
      listing: () => {
        present = new Set();
      },
      put: (key, value) => {
        present.add(key);
        this.#put(key, value);
      },
      remove: (key) => this.#remove(key),
      listed: () => {
        for (const key of [...this.#services.keys(), ...this.#unreadable.keys()])
          if (!present.has(key)) this.#remove(key);
        this.#listed = true;
        this.#onChange();
      },
    });
  }

  /** They were seen once, all of them. */
  get listed(): boolean {
    return this.#listed;
  }

  /** What the hub says that this machine is. */
  setLabels(labels: LabelSet): void {
    this.#labels = labels;
    this.#onChange();
  }

  /** Those that select this machine, by `<namespace>/<name>`. */
  selecting(): ReadonlyMap<string, MachineService> {
    const labels = new Map(this.#labels.map(({ key, value }) => [key, value]));
    const machine = { namespace: labels.get(NAMESPACE_LABEL), labels };
    return new Map([...this.#services].filter(([, service]) => selectsMachine(service, machine)).sort());
  }

  /** What the hub's administrator says that clients prefer. */
  affinities(): ReadonlyMap<string, MachineService['affinity']> {
    return new Map([...this.#services].map(([key, { affinity }]) => [key, affinity]));
  }

  /** Objects that this version cannot read: it cannot know whether it serves them. */
  get unreadable(): ReadonlyMap<string, string> {
    return this.#unreadable;
  }

  close(): void {
    this.#watch?.close();
  }

  #put(key: string, value: Buffer): void {
    try {
      this.#services.set(key, decodeMachineService(key, value));
      this.#unreadable.delete(key);
    } catch (error) {
      // What it was before may be the wrong thing to check.
      this.#services.delete(key);
      this.#unreadable.set(key, messageOf(error));
    }
    this.#onChange();
  }

  #remove(key: string): void {
    const known = this.#services.delete(key);
    if (this.#unreadable.delete(key) || known) this.#onChange();
  }
}
