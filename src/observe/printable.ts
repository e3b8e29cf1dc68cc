/**
 * Characters that could move the cursor, color the screen, break a line or turn the reading order round: C0, DEL, C1,
 * line separators, marks of direction, invisible joints, halves of surrogate pairs.
 */
const HOSTILE =
  /[\p{Cc}\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/u;
const ALL_HOSTILE = new RegExp(HOSTILE.source, 'gu');

/** Text from outside, safe to show on one line of a terminal: hostile characters become escapes such as `\x1b`. */
export function printable(text: string): string {
  return HOSTILE.test(text) ? text.replace(ALL_HOSTILE, escapeOne) : text;
}

const SHORT: Readonly<Record<string, string>> = { '\n': '\\n', '\r': '\\r', '\t': '\\t' };

function escapeOne(character: string): string {
  const code = character.codePointAt(0) ?? 0;
  return SHORT[character] ?? (code < 256 ? `\\x${hex(code, 2)}` : `\\u${hex(code, 4)}`);
}

/** The same for a line of JSON, which stays the same JSON. JSON itself escapes C0. */
export function printableJson(line: string): string {
  return HOSTILE.test(line) ? line.replace(ALL_HOSTILE, (character) => `\\u${hex(character.charCodeAt(0), 4)}`) : line;
}

function hex(code: number, digits: number): string {
  return code.toString(16).padStart(digits, '0');
}
