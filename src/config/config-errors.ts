import type { MeshError } from '../core/errors.ts';

/** Everything that is wrong with a configuration, at once; never empty. */
export class ConfigErrors extends Error {
  readonly problems: readonly MeshError[];

  constructor(problems: readonly MeshError[]) {
    super(
      problems
        .map((problem) => (problem.place === undefined ? problem.message : `${problem.place}: ${problem.message}`))
        .join('\n'),
    );
    this.name = 'ConfigErrors';
    this.problems = problems;
  }
}
