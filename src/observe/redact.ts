const HIDDEN = '[redacted]';

/** Names of things that nobody else may know, wherever in a longer name they stand. */
const WORDS =
  '(?:passw|passphrase|secret|token|api-?_?key|authorization|credential|private-?_?key|key-?_?data|cookie|bearer|session-?_?id)';
const SECRET_NAME = new RegExp(WORDS, 'i');
/** Values that are known by their own form. */
const FORMS: readonly RegExp[] = [
  // PEM, also on one line with escapes, and cut off before its end: then as much as a key can have, and not all that follows,
  // or whoever writes its first line hides the rest of a log.
  /-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?:[\s\S]{0,20000}?-----END [A-Z0-9 ]*PRIVATE KEY-----|[\s\S]{0,20000})/g,
  // PEM in base64, as in a kubeconfig.
  /LS0tLS1CRUdJTi[A-Za-z0-9+/=_-]*/g,
  /\bmat1_[A-Za-z0-9_-]+/g,
  // JSON web tokens.
  /\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?/g,
  /\b(?:AKIA|ASIA)[A-Z0-9]{12,}/g,
  /\b(?:gh[pousr]|github_pat|glpat|xox[abprs])[_-][A-Za-z0-9_-]{8,}/g,
];
const SCHEME = /\b(bearer|basic)([ \t]+|%20)[A-Za-z0-9._~+/=-]{4,}/gi;
/** A scheme is short: looked for without a limit, a long word of many parts would be gone through once for each. */
const USER_INFO = /(\b[a-z][a-z0-9+.-]{0,31}:\/\/)[^\s/"']+@/gi;
/** `name: value`, `name=value`, `"name":"value"`, also with the quotes escaped; without quotes all that follows on the line. */
const PAIR = new RegExp(
  `(${WORDS}[\\w.-]{0,64}\\\\{0,4}["']?[ \\t]{0,8}[:=][ \\t]{0,64})(\\\\{0,4}"(?:[^"\\\\\\n]|\\\\[^"\\n])*\\\\{0,4}"|'[^'\\n]*'|[^\\n]+)`,
  'gi',
);
/** The beginning of a block in YAML, or of a value on the next lines. */
const BLOCK = new RegExp(`${WORDS}[\\w.-]{0,64}["']?[ \\t]*:[ \\t]*(?:[|>][-+0-9]*)?[ \\t]*$`, 'i');
const MAX_NAME_LINE = 500;

/**
 * The text without what looks like a secret: private keys, tokens, passwords, and whatever stands behind such a name. It takes
 * rather too much than too little.
 */
export function redactText(text: string): string {
  let result = text;
  for (const form of FORMS) result = result.replace(form, HIDDEN);
  result = result.replace(SCHEME, `$1$2${HIDDEN}`).replace(USER_INFO, `$1${HIDDEN}@`);
  return redactBlocks(result).replace(PAIR, (_, name: string) => `${name}${HIDDEN}`);
}

/** Lines that are indented further than the name above them. */
function redactBlocks(text: string): string {
  const lines = text.split('\n');
  let indent = -1;
  return lines
    .map((line) => {
      const depth = line.search(/\S/);
      if (indent >= 0 && (depth > indent || depth < 0)) return depth < 0 ? line : `${' '.repeat(depth)}${HIDDEN}`;
      indent = line.length < MAX_NAME_LINE && BLOCK.test(line) ? depth : -1;
      return line;
    })
    .join('\n');
}

const MAX_DEPTH = 32;
/** What a policy says of HTTP may be a credential under any name. */
const HEADERS = /^(headers|headerMatches)$/;

/** The same for a value that becomes JSON: by the names of its fields, and each text in it. */
export function redactValue(value: unknown, depth = 0): unknown {
  if (typeof value === 'string') return redactText(value);
  if (typeof value !== 'object' || value === null) return value;
  if (depth > MAX_DEPTH) return HIDDEN;
  if (Array.isArray(value)) return value.map((each) => redactValue(each, depth + 1));
  return Object.fromEntries(
    Object.entries(value).map(([name, each]) =>
      (SECRET_NAME.test(name) && typeof each !== 'number' && typeof each !== 'boolean') || HEADERS.test(name)
        ? [name, HIDDEN]
        : [name, redactValue(each, depth + 1)],
    ),
  );
}
