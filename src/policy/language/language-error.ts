/** What is wrong with a text, and where. It never leaves the language: callers get a `PolicyProblem`. */
export class LanguageError extends Error {
  readonly path: string;
  readonly line: number;
  readonly document: number;

  constructor(path: string, line: number, message: string, document = 0) {
    super(message);
    this.name = 'LanguageError';
    this.path = path;
    this.line = line;
    this.document = document;
  }
}
