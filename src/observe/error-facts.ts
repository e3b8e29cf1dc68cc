import { MeshError, messageOf } from '../core/errors.ts';

export interface ErrorFacts {
  readonly message: string;
  readonly code?: string;
  readonly place?: string;
  readonly remedy?: string;
  /** Messages of the causes, outermost first. */
  readonly causes?: readonly string[];
  /** Only for errors that no table names: those are faults of the program. */
  readonly stack?: string;
}

const MAX_CAUSES = 5;
const MAX_TEXT = 4000;

/** What the log keeps of anything that was thrown. */
export function errorFacts(error: unknown): ErrorFacts {
  const causes: string[] = [];
  let cause = error instanceof Error ? error.cause : undefined;
  for (; cause !== undefined && causes.length < MAX_CAUSES; cause = cause instanceof Error ? cause.cause : undefined) {
    causes.push(cut(messageOf(cause)));
  }
  const message = cut(messageOf(error));
  const rest = causes.length === 0 ? {} : { causes };
  if (error instanceof MeshError) {
    const place = error.place === undefined ? {} : { place: cut(error.place) };
    return { message, code: error.code, ...place, remedy: error.remedy, ...rest };
  }
  return { message, ...rest, ...(error instanceof Error && error.stack !== undefined && { stack: cut(error.stack) }) };
}

function cut(text: string): string {
  return text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}...` : text;
}
