import { MeshError } from '../core/errors.ts';
import type { ApplyRequest, ExplainRequest, PolicyText } from './policy-types.ts';

/** Bodies of requests: whoever has the socket may send anything. All throw MeshError API-REQUEST. */
const MAX_TEXTS = 1000;
const MAX_WORD = 4096;

export function readExplain(body: Buffer): ExplainRequest {
  const fields = readObject(body, ['source', 'destination', 'port', 'with']);
  const port = fields.port === undefined ? undefined : word(fields.port, 'port');
  return {
    source: word(fields.source, 'source'),
    destination: word(fields.destination, 'destination'),
    ...(port !== undefined && { port }),
    ...(fields.with !== undefined && { with: texts(fields.with, 'with') }),
  };
}

export function readApply(body: Buffer): ApplyRequest {
  const fields = readObject(body, ['texts']);
  return { texts: texts(fields.texts, 'texts') };
}

export function readDrain(body: Buffer): boolean {
  const { draining } = readObject(body, ['draining']);
  if (typeof draining !== 'boolean') throw refusal('"draining" must be true or false');
  return draining;
}

type Fields = Readonly<Record<string, unknown>>;

function readObject(body: Buffer, known: readonly string[]): Fields {
  let value: unknown;
  try {
    value = JSON.parse(body.toString('utf8'));
  } catch {
    throw refusal('the body is no JSON');
  }
  return fieldsOf(value, known, 'the body');
}

function fieldsOf(value: unknown, known: readonly string[], what: string): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw refusal(`${what} is no object`);
  const unknown = Object.keys(value).find((key) => !known.includes(key));
  if (unknown !== undefined) throw refusal(`${what} has an unknown field ${JSON.stringify(unknown.slice(0, 80))}`);
  return value as Fields;
}

function word(value: unknown, name: string): string {
  if (typeof value !== 'string' || value === '' || value.length > MAX_WORD)
    throw refusal(`"${name}" must be a text of 1 to ${MAX_WORD} characters`);
  return value;
}

function texts(value: unknown, name: string): PolicyText[] {
  if (!Array.isArray(value) || value.length === 0 || value.length > MAX_TEXTS)
    throw refusal(`"${name}" must be a list of 1 to ${MAX_TEXTS} texts`);
  return value.map((each: unknown) => {
    const fields = fieldsOf(each, ['name', 'text'], `an item of "${name}"`);
    if (typeof fields.text !== 'string') throw refusal(`"text" in "${name}" must be a text`);
    return { name: word(fields.name, 'name'), text: fields.text };
  });
}

function refusal(why: string): MeshError {
  return new MeshError('API-REQUEST', why);
}
