import type { FeedReader } from '../core/feed.ts';
import type { NumericIdentity } from '../core/identity.ts';
import type { Prefix } from '../core/ip.ts';
import type { DesiredChanges } from '../datapath/desired.ts';
import type { Tables } from '../mesh/tables.ts';
import type { PolicyModel } from '../policy/model.ts';
import type { DesiredFromFacts } from './desired-state.ts';

export interface ModelFeedOptions {
  readonly tables: Tables;
  readonly model: PolicyModel;
  readonly desired: DesiredFromFacts;
  /** Something changed; must only schedule. */
  readonly wake: () => void;
}

/**
 * Carries changed facts into the policy model and says where the desired state changed:
 *
 *   identities ──▶ model ──▶ classes, prefixes that policies name ──▶ ipcache ──▶ addresses, prefixes, border, overlay
 */
export class ModelFeed {
  readonly #options: ModelFeedOptions;
  readonly #identities: FeedReader<NumericIdentity>;
  readonly #nodes: FeedReader<string>;
  readonly #ports: FeedReader<NumericIdentity>;
  #hosts4: FeedReader<number> | undefined;
  #hosts6: FeedReader<string> | undefined;
  readonly #prefixes: FeedReader<string>;
  /** Prefixes of policies that are in the ipcache. */
  readonly #named = new Map<string, Prefix>();
  #touched = true;
  #watchedNames = false;

  constructor(options: ModelFeedOptions) {
    const { tables, wake } = options;
    this.#options = options;
    this.#identities = tables.identities.changed.read(wake);
    this.#nodes = tables.nodes.changed.read(wake);
    this.#ports = tables.portNames.changed.read(wake);
    this.#prefixes = tables.ipcache.changedPrefixes.read(wake);
  }

  /** From now on single addresses are followed one by one; before, the whole table is compared once. */
  followAddresses(): void {
    const { tables, wake } = this.#options;
    this.#hosts4 ??= tables.ipcache.changed4.read(wake);
    this.#hosts6 ??= tables.ipcache.changed6.read(wake);
  }

  /** Addresses, devices, stores or the registration changed: border and overlay are worked out again. */
  touch(): void {
    this.#touched = true;
    this.#options.wake();
  }

  collect(): DesiredChanges {
    const { tables, model, desired } = this.#options;
    for (const id of this.#identities.drain()) {
      const fact = tables.identities.get(id);
      if (fact === undefined) model.removeIdentity(id);
      else model.setIdentity(id, fact.labels);
    }
    for (const id of this.#ports.drain()) model.setNamedPorts(id, tables.portNames.of(id));
    const changes = model.drainChanges();
    this.#followPrefixes(changes.prefixes);
    const prefixes = this.#prefixes.drain().size > 0;
    const nodes = this.#nodes.drain().size > 0;
    const watches = model.wantsNames !== this.#watchedNames;
    this.#watchedNames = model.wantsNames;
    const touched = this.#touched || nodes || prefixes || watches;
    this.#touched = false;
    const small = touched ? desired.refresh() : { border: false, overlay: false };
    return {
      ingress: changes.ingress,
      egress: changes.egress,
      prefixes,
      border: small.border,
      overlay: small.overlay,
      ...(this.#hosts4 !== undefined && { hosts4: this.#hosts4.drain() }),
      ...(this.#hosts6 !== undefined && { hosts6: this.#hosts6.drain() }),
    };
  }

  /** Prefixes that policies name have identities of the model's own; they are addresses like any other. */
  #followPrefixes(changed: ReadonlySet<string>): void {
    const { tables, model } = this.#options;
    const origin = tables.origins.of('', 'policy');
    const present = changed.size === 0 ? undefined : model.resolved.prefixes;
    for (const text of changed) {
      const named = present?.get(text);
      if (named !== undefined) {
        const { prefix, identity } = named;
        tables.ipcache.claim(origin, 0, { address: prefix, bits: prefix.bits, identity, tunnelEndpoint: undefined });
        this.#named.set(text, prefix);
      } else {
        const gone = this.#named.get(text);
        if (gone !== undefined) tables.ipcache.withdraw(origin, gone, gone.bits);
        this.#named.delete(text);
      }
    }
  }
}
