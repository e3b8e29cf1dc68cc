import { formatPrefix } from '../core/ip.ts';
import { formatProblem, type ParseOptions, type PolicyObject, parsePolicies } from './language/parse.ts';
import type { PolicyEffect, PolicyModel } from './model.ts';

/** Where a document came from. On a conflict the kvstore wins over the API, and the API over the directory. */
export type PolicySource = 'kvstore' | 'directory' | 'api';

/** One policy object for people; the shape of `PolicyRecord` in the API. */
export interface PolicyEntry {
  readonly name: string;
  readonly kind: string;
  /** `directory:web.yaml` */
  readonly source: string;
  /**
   * `last-good`: its present content is refused, the one before is in force. `invalid`: nothing of it is in force.
   * `shadowed`: another document holds the same object and wins.
   */
  readonly state: 'in-force' | 'not-selecting' | 'invalid' | 'last-good' | 'shadowed';
  readonly rules: number;
  readonly selecting: boolean;
  readonly directions: readonly string[];
  /** Its denials are reported, not applied. */
  readonly audit: boolean;
  /** Entries that are narrowed or held back. */
  readonly heldBack: number;
  readonly messages: readonly string[];
  /** Milliseconds since the epoch: when it got its present content or error. */
  readonly since: number;
}

export interface PolicyEntryDetail extends PolicyEntry {
  readonly rulesJson: unknown;
}

export interface RepositoryOptions {
  readonly model: PolicyModel;
  readonly parse?: ParseOptions;
  readonly now: () => number;
}

/** An object that can be in force. */
export type GoodObject = Exclude<PolicyObject, { type: 'bad' }>;

/** One object as a document holds it. */
interface Held {
  readonly policy: string;
  readonly kind: string;
  readonly good: GoodObject | undefined;
  /** Why the present content is refused. */
  readonly error: string | undefined;
  /** What else is to be said of it. */
  readonly notes: readonly string[];
  readonly since: number;
}

interface Document {
  readonly source: PolicySource;
  readonly name: string;
  readonly text: string;
  /** By policy, and what cannot be named by its place. */
  readonly held: ReadonlyMap<string, Held>;
}

const RANK: Readonly<Record<PolicySource, number>> = { kvstore: 0, api: 1, directory: 2 };

/**
 * Policy documents of several sources; feeds the model. An object is replaced in one step; one that turns bad stays in
 * force as it was (specification 17.3), the others of its document are not held up by it. A text that cannot be read at
 * all leaves everything of its document as it was.
 */
export class PolicyRepository {
  readonly #options: RepositoryOptions;
  readonly #documents = new Map<string, Document>();
  /** By policy: the documents that hold it, the winner first. */
  readonly #holders = new Map<string, readonly Document[]>();
  readonly #inForce = new Map<string, GoodObject>();

  constructor(options: RepositoryOptions) {
    this.#options = options;
  }

  /** A document: a file, or a key of the store. The same text again changes nothing. */
  put(source: PolicySource, name: string, text: string): void {
    const key = `${source}:${name}`;
    const before = this.#documents.get(key);
    if (before?.text === text) return;
    const held = this.#read(key, text, before?.held ?? new Map());
    this.#replace(before, { source, name, text, held });
  }

  remove(source: PolicySource, name: string): void {
    const before = this.#documents.get(`${source}:${name}`);
    if (before !== undefined) this.#replace(before, undefined);
  }

  /** Sorted by name, the winner of a conflict first. */
  list(): PolicyEntry[] {
    return [...this.#holders.keys()].sort().flatMap((policy) => {
      const effect = this.#options.model.effectOf(policy);
      return (this.#holders.get(policy) ?? []).map((document) => this.#entry(document, policy, effect));
    });
  }

  /** By the name that `list` shows; of a conflict the winner. */
  get(name: string): PolicyEntryDetail | undefined {
    const [document] = this.#holders.get(name) ?? [];
    if (document === undefined) return undefined;
    const entry = this.#entry(document, name, this.#options.model.effectOf(name));
    return { ...entry, rulesJson: rulesJson(document.held.get(name)?.good) };
  }

  /** The objects in force, by policy. */
  inForce(): ReadonlyMap<string, GoodObject> {
    return this.#inForce;
  }

  /** The document that the object in force stands in. */
  documentOf(policy: string): { readonly source: PolicySource; readonly name: string } | undefined {
    return this.#holders.get(policy)?.[0];
  }

  #read(key: string, text: string, before: ReadonlyMap<string, Held>): ReadonlyMap<string, Held> {
    const now = this.#options.now();
    const refused = (policy: string, kind: string, error: string): Held => {
      const last = before.get(policy);
      return { policy, kind, good: last?.good, error, notes: [], since: last?.error === error ? last.since : now };
    };
    const { objects, error } = parsePolicies(text, { ...this.#options.parse, name: key });
    if (error !== undefined) {
      const message = formatProblem(error);
      if (before.size === 0) return new Map([[key, refused(key, 'Document', message)]]);
      return new Map([...before].map(([policy, { kind }]) => [policy, refused(policy, kind, message)]));
    }
    const held = new Map<string, Held>();
    let nameless: string | undefined;
    for (const object of objects) {
      const policy = object.policy ?? `${key}#${object.document + 1}:${object.line}`;
      if (object.policy === undefined && object.type === 'bad') nameless ??= formatProblem(object.error);
      const first = held.get(policy);
      if (first !== undefined) {
        const place = `document ${object.document + 1}, line ${object.line}`;
        held.set(policy, {
          ...first,
          notes: [...first.notes, `${place}: it stands here once more, which does not count`],
        });
      } else if (object.type !== 'bad') held.set(policy, accepted(object, before.get(policy), now));
      else held.set(policy, refused(policy, object.kind, formatProblem(object.error)));
    }
    if (nameless === undefined) return held;
    // Whatever is missing may be the object that lost its name.
    for (const [policy, last] of before) {
      if (last.good === undefined || held.has(policy)) continue;
      held.set(policy, refused(policy, last.kind, `it is missing, while another object has no name: ${nameless}`));
    }
    return held;
  }

  #replace(before: Document | undefined, after: Document | undefined): void {
    const document = after ?? before;
    if (document === undefined) return;
    const key = `${document.source}:${document.name}`;
    if (after === undefined) this.#documents.delete(key);
    else this.#documents.set(key, after);
    for (const policy of new Set([...(before?.held.keys() ?? []), ...(after?.held.keys() ?? [])])) {
      const holders = (this.#holders.get(policy) ?? []).filter((each) => each !== before);
      if (after?.held.has(policy)) holders.push(after);
      holders.sort((a, b) => byPrecedence(a, b, policy));
      if (holders.length === 0) this.#holders.delete(policy);
      else this.#holders.set(policy, holders);
      this.#feed(policy, holders[0]?.held.get(policy)?.good);
    }
  }

  #feed(policy: string, now: GoodObject | undefined): void {
    const before = this.#inForce.get(policy);
    if (before === now) return;
    if (now === undefined) this.#inForce.delete(policy);
    else this.#inForce.set(policy, now);
    const { model } = this.#options;
    if (before?.type === 'cidr-group' && now === undefined) model.setCidrGroup(before.name, undefined);
    if (now?.type === 'cidr-group') model.setCidrGroup(now.name, now);
    if (before?.type === 'policy' || now?.type === 'policy') {
      model.setPolicies(policy, now?.type === 'policy' ? now.rules : undefined);
    }
  }

  #entry(document: Document, policy: string, effect: PolicyEffect): PolicyEntry {
    const holders = this.#holders.get(policy) ?? [];
    const { kind, good, error, notes, since } = document.held.get(policy) as Held;
    const wins = holders[0] === document;
    const applies = wins && good !== undefined;
    const others = holders.filter((each) => each !== document).map((each) => `${each.source}:${each.name}`);
    const conflict = wins
      ? others.map((other) => `also in ${other}, which is not in force`)
      : [`not in force: ${others[0]} holds the same object and comes first`];
    const selecting = applies && effect.selecting;
    return {
      name: policy,
      kind,
      source: `${document.source}:${document.name}`,
      state: stateOf({ error, wins, good, selecting }),
      rules: good?.type === 'policy' ? good.rules.length : 0,
      selecting,
      directions: applies ? effect.directions : [],
      audit: good?.type === 'policy' && good.rules.some((rule) => rule.audit),
      heldBack: applies ? effect.heldBack : 0,
      messages: [
        ...(error === undefined ? [] : [error]),
        ...notes,
        ...(others.length === 0 ? [] : conflict),
        ...(good?.warnings ?? []).map(formatProblem),
        ...(applies ? effect.messages : []),
      ],
      since,
    };
  }
}

function accepted(object: GoodObject, last: Held | undefined, now: number): Held {
  const { policy, kind } = object;
  const same = last?.error === undefined && last?.good !== undefined && contentOf(last.good) === contentOf(object);
  return { policy, kind, good: object, error: undefined, notes: [], since: same ? last.since : now };
}

/** Equal for objects that say the same, wherever they stand in their text. */
function contentOf(object: GoodObject): string {
  const audit = object.type === 'policy' && object.rules.some((rule) => rule.audit);
  return JSON.stringify([audit, rulesJson(object)]);
}

function rulesJson(object: GoodObject | undefined): unknown {
  if (object === undefined) return [];
  if (object.type === 'policy') return object.rules.map(({ display }) => display);
  return [{ name: object.name, externalCIDRs: object.prefixes.map(formatPrefix) }];
}

/** What has content comes before what has none: a broken object must not push a good one of the same name aside. */
function byPrecedence(a: Document, b: Document, policy: string): number {
  const empty = (document: Document): number => (document.held.get(policy)?.good === undefined ? 1 : 0);
  return empty(a) - empty(b) || RANK[a.source] - RANK[b.source] || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
}

function stateOf(held: {
  readonly error: string | undefined;
  readonly wins: boolean;
  readonly good: GoodObject | undefined;
  readonly selecting: boolean;
}): PolicyEntry['state'] {
  if (held.good === undefined) return 'invalid';
  if (!held.wins) return 'shadowed';
  if (held.error !== undefined) return 'last-good';
  return held.selecting || held.good.type === 'cidr-group' ? 'in-force' : 'not-selecting';
}
