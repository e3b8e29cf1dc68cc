import { type Address, type Prefix, parseAddress, prefixOf } from '../../core/ip.ts';

/**
 * Go's JSON conventions at the border: field names in any case, `null` and a missing field leave the zero value, unknown
 * fields are ignored, a wrong type is an error. Values of the store are hostile until they went through here.
 */
export class BadValue extends Error {}

const MAX_BYTES = 1_572_864;

export type Fields = ReadonlyMap<string, unknown>;

/** @throws BadValue */
export function parseObject(value: Buffer): Fields {
  if (value.length > MAX_BYTES) throw new BadValue(`value of ${value.length} bytes is too long`);
  let content: unknown;
  try {
    content = JSON.parse(value.toString('utf8'), goNumber);
  } catch (error) {
    // Also the overflow of the stack by deep nesting.
    throw new BadValue(`not JSON: ${(error as Error).message.slice(0, 120)}`);
  }
  return fieldsOf(content, 'value');
}

/** Go takes `1.0` and `1e2` for no integers, and every number of our types is one. */
function goNumber(_key: string, value: unknown, context?: { readonly source?: string }): unknown {
  return typeof value === 'number' && !/^-?[0-9]+$/.test(context?.source ?? '') ? Number.NaN : value;
}

/** Of names that differ in their case alone the last wins. */
export function fieldsOf(content: unknown, name: string): Fields {
  if (typeof content !== 'object' || content === null || Array.isArray(content))
    throw new BadValue(`${name} is no object`);
  return new Map(Object.entries(content).map(([key, value]) => [key.toLowerCase(), value]));
}

export function text(fields: Fields, name: string): string {
  const value = fields.get(name.toLowerCase());
  if (value === undefined || value === null) return '';
  if (typeof value !== 'string') throw new BadValue(`${name} is no string`);
  return value;
}

export function uint(fields: Fields, name: string, max = 0xffffffff): number {
  const value = fields.get(name.toLowerCase());
  if (value === undefined || value === null) return 0;
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > max || Object.is(value, -0))
    throw new BadValue(`${name} is no whole number from 0 to ${max}`);
  return value;
}

export function bool(fields: Fields, name: string): boolean {
  const value = fields.get(name.toLowerCase());
  if (value === undefined || value === null) return false;
  if (typeof value !== 'boolean') throw new BadValue(`${name} is no boolean`);
  return value;
}

export function list(fields: Fields, name: string): readonly unknown[] {
  const value = fields.get(name.toLowerCase());
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw new BadValue(`${name} is no list`);
  return value;
}

export function entries(fields: Fields, name: string): readonly (readonly [string, unknown])[] {
  return entriesOf(fields.get(name.toLowerCase()), name);
}

export function entriesOf(value: unknown, name: string): readonly (readonly [string, unknown])[] {
  if (value === undefined || value === null) return [];
  if (typeof value !== 'object' || Array.isArray(value)) throw new BadValue(`${name} is no object`);
  return Object.entries(value);
}

export function stringMap(fields: Fields, name: string): ReadonlyMap<string, string> {
  return new Map(
    entries(fields, name).map(([key, value]) => {
      if (value === null) return [key, ''];
      if (typeof value !== 'string') throw new BadValue(`${name}.${key} is no string`);
      return [key, value];
    }),
  );
}

/** Go's net.IP: empty text is none. */
export function address(fields: Fields, name: string): Address | undefined {
  const value = text(fields, name);
  if (value === '') return undefined;
  const parsed = parseAddress(value);
  if (parsed === undefined) throw new BadValue(`${name} ${quoted(value)} is no address`);
  return parsed;
}

/** Go's net.IPNet: `{"IP": text, "Mask": base64}`. Host bits are cleared. */
export function ipNet(value: unknown, name: string): Prefix | undefined {
  if (value === undefined || value === null) return undefined;
  const fields = fieldsOf(value, name);
  const ip = address(fields, 'IP');
  const mask = text(fields, 'Mask');
  if (ip === undefined || mask === '') throw new BadValue(`${name} is no prefix`);
  return prefixOf(ip, maskBits(mask, ip.family, name));
}

/** The length of a base64 mask, which must be one of the family. */
export function maskBits(mask: string, family: 4 | 6, name: string): number {
  const known = MASKS[family].get(mask);
  if (known === undefined)
    throw new BadValue(`${name}: mask ${quoted(mask)} is no base64 of an IPv${family} mask without holes`);
  return known;
}

/** All masks there are, by their text: 33 and 129. */
const MASKS = { 4: masks(4), 6: masks(6) } as const;

function masks(family: 4 | 6): ReadonlyMap<string, number> {
  const lengths = Array.from({ length: family === 4 ? 33 : 129 }, (_, bits) => bits);
  return new Map(lengths.map((bits) => [maskText(family, bits), bits]));
}

function maskText(family: 4 | 6, bits: number): string {
  const bytes = Buffer.alloc(family === 4 ? 4 : 16);
  for (let i = 0; i < bits; i++) bytes[i >> 3] = (bytes[i >> 3] as number) | (128 >> (i & 7));
  return bytes.toString('base64');
}

export function encodeMask(prefix: Prefix): string {
  return maskText(prefix.family, prefix.bits);
}

/** For messages: what a stranger wrote, at a length that a log can bear. */
export function quoted(value: unknown): string {
  const shown = JSON.stringify(value) ?? 'undefined';
  return shown.length > 100 ? `${shown.slice(0, 100)}…` : shown;
}

/** Go's encoder: maps sorted bytewise by key, and these characters escaped in strings. A `Map` becomes an object. */
export function goJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(goJson).join(',')}]`;
  if (value instanceof Map) {
    const sorted = [...value].sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
    return objectOf(sorted);
  }
  if (typeof value === 'object' && value !== null) return objectOf(Object.entries(value));
  return JSON.stringify(value).replace(
    /[<>&\u2028\u2029]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

function objectOf(fields: readonly (readonly [string, unknown])[]): string {
  return `{${fields.map(([key, item]) => `${goJson(key)}:${goJson(item)}`).join(',')}}`;
}
