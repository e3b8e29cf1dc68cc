import type { ParseOptions } from './language/parse.ts';
import type { PolicyModel } from './model.ts';

/** Where a document came from. On a conflict the kvstore wins over the API, and the API over the directory. */
export type PolicySource = 'kvstore' | 'directory' | 'api';

/** One policy object for people; the shape of `PolicyRecord` in the API. */
export interface PolicyEntry {
  readonly name: string;
  readonly kind: string;
  readonly source: string;
  readonly state: 'in-force' | 'not-selecting' | 'invalid' | 'last-good' | 'shadowed';
  readonly rules: number;
  readonly selecting: boolean;
  readonly directions: readonly string[];
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

/** Policy documents of several sources; feeds the model. */
export class PolicyRepository {
  constructor(_options: RepositoryOptions) {}

  /** A document: a file, or a key of the store. Content that turns bad keeps its last good version in force. */
  put(_source: PolicySource, _name: string, _text: string): void {}

  remove(_source: PolicySource, _name: string): void {}

  list(): PolicyEntry[] {
    return [];
  }

  get(_name: string): PolicyEntryDetail | undefined {
    return undefined;
  }
}
