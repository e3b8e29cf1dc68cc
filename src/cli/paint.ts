const CODES = { bold: '1', dim: '2', red: '31', green: '32', yellow: '33' } as const;

export type Tone = keyof typeof CODES;
/** Colors text, or leaves it alone. */
export type Paint = (text: string, tone: Tone) => string;

export function painter(color: boolean): Paint {
  return color ? (text, tone) => `\x1b[${CODES[tone]}m${text}\x1b[0m` : (text) => text;
}
