import type { NumericIdentity } from '../core/identity.ts';
import type { DesiredChanges } from '../datapath/desired.ts';
import type { DirectionChanges } from '../policy/result.ts';
import type { FrontendKey } from '../service/result.ts';

interface PendingDirection {
  readonly identities: Set<NumericIdentity>;
  readonly classes: Set<number>;
}

const emptyDirection = (): PendingDirection => ({ identities: new Set(), classes: new Set() });

/** Collects where to look until the next apply, and takes it back when an apply failed. */
export class PendingChanges {
  #everything = false;
  #prefixes = false;
  #border = false;
  #overlay = false;
  #hosts4 = new Set<number>();
  #hosts6 = new Set<string>();
  #services = new Set<FrontendKey>();
  #ingress = emptyDirection();
  #egress = emptyDirection();

  get empty(): boolean {
    return !(
      this.#everything ||
      this.#prefixes ||
      this.#border ||
      this.#overlay ||
      this.#hosts4.size > 0 ||
      this.#hosts6.size > 0 ||
      this.#services.size > 0 ||
      changed(this.#ingress) ||
      changed(this.#egress)
    );
  }

  /** The data path must compare all that it holds; single keys no longer matter. */
  get everything(): boolean {
    return this.#everything;
  }

  add(changes: DesiredChanges): void {
    this.#everything ||= changes.everything === true;
    this.#prefixes ||= changes.prefixes === true;
    this.#border ||= changes.border === true;
    this.#overlay ||= changes.overlay === true;
    for (const word of changes.hosts4 ?? []) this.#hosts4.add(word);
    for (const text of changes.hosts6 ?? []) this.#hosts6.add(text);
    for (const key of changes.services ?? []) this.#services.add(key);
    addDirection(this.#ingress, changes.ingress);
    addDirection(this.#egress, changes.egress);
  }

  /** Everything collected so far; what comes later is a new set. */
  take(): DesiredChanges {
    const changes: DesiredChanges = this.#everything
      ? { everything: true }
      : {
          prefixes: this.#prefixes,
          border: this.#border,
          overlay: this.#overlay,
          hosts4: this.#hosts4,
          hosts6: this.#hosts6,
          services: this.#services,
          ingress: this.#ingress,
          egress: this.#egress,
        };
    this.#everything = this.#prefixes = this.#border = this.#overlay = false;
    this.#hosts4 = new Set();
    this.#hosts6 = new Set();
    this.#services = new Set();
    this.#ingress = emptyDirection();
    this.#egress = emptyDirection();
    return changes;
  }
}

const changed = (direction: DirectionChanges): boolean => direction.identities.size > 0 || direction.classes.size > 0;

function addDirection(into: PendingDirection, from: DirectionChanges | undefined): void {
  if (from === undefined) return;
  for (const id of from.identities) into.identities.add(id);
  for (const id of from.classes) into.classes.add(id);
}
