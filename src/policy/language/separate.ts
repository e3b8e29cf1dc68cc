import { readDocuments, toPlain } from './document.ts';
import { LanguageError } from './language-error.ts';
import { objectNodes } from './objects.ts';
import { type ParsedText, type ParseOptions, type PolicyObject, parsePolicies } from './parse.ts';

/** One object of a text, and the same as a text of its own. */
export interface SeparateObject {
  readonly object: PolicyObject;
  /** JSON with one value a line, so that places in it can be named. */
  readonly text: string;
}

export interface SeparateText {
  readonly objects: readonly SeparateObject[];
  readonly error?: NonNullable<ParsedText['error']>;
}

/** Takes a text apart into its objects. Like `parsePolicies` it never throws. */
export function separatePolicies(text: string, options: ParseOptions = {}): SeparateText {
  const { objects, error } = parsePolicies(text, options);
  if (error !== undefined) return { objects: [], error };
  const parts = partsOf(text);
  return {
    objects: objects.map((object, index) => ({ object, text: `${JSON.stringify(parts[index], undefined, 2)}\n` })),
  };
}

/** In the order in which `parsePolicies` reads them. */
function partsOf(text: string): unknown[] {
  try {
    return readDocuments(text).flatMap(({ root }) => [...objectNodes(root)].map(({ node }) => toPlain(node)));
  } catch (error) {
    // It was read a moment ago.
    if (error instanceof LanguageError) return [];
    throw error;
  }
}
