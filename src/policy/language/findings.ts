import { type ParsedText, type PolicyProblem, parsePolicies } from './parse.ts';

/** One thing to say of a text with policies. */
export interface PolicyFinding {
  readonly file: string;
  /** Counts from 1. */
  readonly document?: number;
  readonly policy?: string;
  readonly path?: string;
  readonly line?: number;
  readonly severity: 'ok' | 'warning' | 'error';
  readonly message?: string;
}

/** Everything there is to say of a text. */
export function checkText(file: string, text: string): PolicyFinding[] {
  return findingsOf(file, parsePolicies(text));
}

export function findingsOf(file: string, { objects, error }: ParsedText): PolicyFinding[] {
  if (error !== undefined) return [{ file, severity: 'error', ...placeOf(error) }];
  if (objects.length === 0) return [{ file, severity: 'warning', message: 'there is no policy in it' }];
  return objects.flatMap((object): PolicyFinding[] => {
    const policy = object.policy === undefined ? {} : { policy: object.policy };
    const warnings = object.warnings.map(
      (each): PolicyFinding => ({ file, ...policy, severity: 'warning', ...placeOf(each) }),
    );
    if (object.type === 'bad') return [...warnings, { file, ...policy, severity: 'error', ...placeOf(object.error) }];
    return [...warnings, { file, document: object.document + 1, ...policy, line: object.line, severity: 'ok' }];
  });
}

export function placeOf(problem: PolicyProblem): Omit<PolicyFinding, 'file' | 'severity'> {
  const { document, path, line, message } = problem;
  return { document: document + 1, ...(path !== '' && { path }), line, message };
}
