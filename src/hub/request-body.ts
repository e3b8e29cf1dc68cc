import { MeshError } from '../core/errors.ts';
import { BadValue, type Fields, fieldsOf } from '../kvstore/codec/json.ts';

/** The body of a request with these fields and no others. @throws MeshError API-REQUEST for what `read` finds bad as well */
export function readBody<T>(body: unknown, known: readonly string[], read: (fields: Fields) => T): T {
  try {
    const fields = fieldsOf(body, 'the body');
    const names = known.map((name) => name.toLowerCase());
    for (const name of fields.keys())
      if (!names.includes(name)) throw new BadValue(`unknown field ${JSON.stringify(name.slice(0, 50))}`);
    return read(fields);
  } catch (error) {
    if (error instanceof BadValue) throw new MeshError('API-REQUEST', error.message);
    throw error;
  }
}

/** @throws BadValue */
export function stringOf(fields: Fields, name: string): string | undefined {
  const value = fields.get(name.toLowerCase());
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'string') throw new BadValue(`${name} is no string`);
  return value;
}

/** @throws BadValue */
export function stringsOf(fields: Fields, name: string): readonly string[] | undefined {
  const value = fields.get(name.toLowerCase());
  if (value === undefined || value === null) return undefined;
  if (!Array.isArray(value) || value.some((each) => typeof each !== 'string'))
    throw new BadValue(`${name} is no list of strings`);
  return value as string[];
}

/** An object of texts. @throws BadValue */
export function labelsOf(fields: Fields, name: string): Readonly<Record<string, string>> | undefined {
  const value = fields.get(name.toLowerCase());
  if (value === undefined || value === null) return undefined;
  fieldsOf(value, name);
  for (const [key, item] of Object.entries(value as object))
    if (typeof item !== 'string') throw new BadValue(`label ${JSON.stringify(key.slice(0, 50))} is no string`);
  return value as Readonly<Record<string, string>>;
}
