/** One measured figure. `bar` is what it has to reach, in the same unit, in words such as `< 3`. */
export interface Row {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  readonly bar?: string;
}

/** Whether a figure reaches its bar; undefined without a bar. */
export function reaches({ value, bar }: Row): boolean | undefined {
  const match = /^([<>])=?\s*([0-9.]+)/.exec(bar ?? '');
  if (match === null) return undefined;
  return match[1] === '<' ? value <= Number(match[2]) : value >= Number(match[2]);
}
