import type { Prefix } from '../../core/ip.ts';
import type { LabelSet } from '../../core/labels.ts';
import type { Rule } from '../rule.ts';
import { readDocuments } from './document.ts';
import { LanguageError } from './language-error.ts';
import { readObjects } from './objects.ts';

export interface ParseOptions {
  /** Unknown fields are ignored rather than refused. Default false. */
  readonly lenient?: boolean;
  /** `fromNodes` and `toNodes` are known (`enable-node-selector-labels`). Default false: refused. */
  readonly nodeSelectors?: boolean;
  /** `hold` (default): entries with L7 rules are held back. `reject`: the object is refused. */
  readonly l7?: 'hold' | 'reject';
  /** Stands in the names of raw rules, which have none themselves: `Rules/<name>`. Default `text`. */
  readonly name?: string;
}

/** Something to tell the author. `line` counts from 1. */
export interface PolicyProblem {
  /** From 0. */
  readonly document: number;
  /** `spec.ingress[0].toPorts[0]`; empty for the document itself. */
  readonly path: string;
  readonly line: number;
  readonly message: string;
}

interface ObjectHead {
  /** `CiliumNetworkPolicy/<namespace>/<name>` and so on, as in `RuleRef.policy`; undefined for a bad object without name. */
  readonly policy: string | undefined;
  readonly kind: string;
  readonly document: number;
  readonly line: number;
  readonly warnings: readonly PolicyProblem[];
}

/** One object of a text. */
export type PolicyObject =
  | (ObjectHead & { readonly type: 'policy'; readonly policy: string; readonly rules: readonly Rule[] })
  | (ObjectHead & {
      readonly type: 'cidr-group';
      readonly policy: string;
      readonly name: string;
      readonly labels: LabelSet;
      readonly prefixes: readonly Prefix[];
    })
  | (ObjectHead & { readonly type: 'bad'; readonly error: PolicyProblem });

export interface ParsedText {
  readonly objects: readonly PolicyObject[];
  /** The text itself cannot be read; `objects` is empty then. */
  readonly error?: PolicyProblem;
}

/** Reads YAML or JSON. Never throws: what cannot be read is an error of the text or of its object. */
export function parsePolicies(text: string, options: ParseOptions = {}): ParsedText {
  try {
    const objects: PolicyObject[] = [];
    for (const { root, index } of readDocuments(text)) {
      for (const object of readObjects(root, index, options)) objects.push(object);
    }
    return { objects };
  } catch (error) {
    if (!(error instanceof LanguageError)) throw error;
    const { document, path, line, message } = error;
    return { objects: [], error: { document, path, line, message } };
  }
}

/** `document 2, line 14, spec.ingress[0]: message` */
export function formatProblem(problem: PolicyProblem): string {
  const path = problem.path === '' ? '' : `, ${problem.path}`;
  return `document ${problem.document + 1}, line ${problem.line}${path}: ${problem.message}`;
}
