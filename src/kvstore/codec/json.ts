import { type Address, type Prefix, parseAddress, prefixOf } from '../../core/ip.ts';

/**
 * Go's JSON conventions at the border: field names in any case, `null` and a missing field leave the zero value, unknown
 * fields are ignored, a wrong type is an error. Values of the store are hostile until they went through here.
 */
export class BadValue extends Error {}

const MAX_BYTES = 1_572_864;

export type Fields = ReadonlyMap<string, unknown>;

export function parseObject(value: Buffer): Fields {
  if (value.length > MAX_BYTES) throw new BadValue(`value of ${value.length} bytes is too long`);
  let content: unknown;
  try {
    content = JSON.parse(value.toString('utf8'));
  } catch (error) {
    throw new BadValue(`not JSON: ${(error as Error).message.slice(0, 120)}`);
  }
  return fieldsOf(content, 'value');
}

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
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > max)
    throw new BadValue(`${name} is no number from 0 to ${max}`);
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
  const value = fields.get(name.toLowerCase());
  if (value === undefined || value === null) return [];
  if (typeof value !== 'object' || Array.isArray(value)) throw new BadValue(`${name} is no object`);
  return Object.entries(value);
}

export function stringMap(fields: Fields, name: string): ReadonlyMap<string, string> {
  return new Map(
    entries(fields, name).map(([key, value]) => {
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
  if (parsed === undefined) throw new BadValue(`${name} ${JSON.stringify(value)} is no address`);
  return parsed;
}

/** Go's net.IPNet: `{"IP": text, "Mask": base64}`. Host bits are cleared. */
export function ipNet(value: unknown, name: string): Prefix | undefined {
  if (value === undefined || value === null) return undefined;
  const fields = fieldsOf(value, name);
  const ip = address(fields, 'IP');
  const bits = maskBits(text(fields, 'Mask'), name);
  if (ip === undefined || bits === undefined || bits > (ip.family === 4 ? 32 : 128))
    throw new BadValue(`${name} is no prefix`);
  return prefixOf(ip, bits);
}

/** The length of a base64 mask, undefined for none. */
export function maskBits(mask: string, name: string): number | undefined {
  if (mask === '') return undefined;
  const bytes = Buffer.from(mask, 'base64');
  if (bytes.toString('base64') !== mask || (bytes.length !== 4 && bytes.length !== 16))
    throw new BadValue(`${name}: mask ${JSON.stringify(mask)} is no base64 of 4 or 16 bytes`);
  const binary = [...bytes].map((byte) => byte.toString(2).padStart(8, '0')).join('');
  const bits = binary.indexOf('0') < 0 ? binary.length : binary.indexOf('0');
  if (binary.includes('1', bits)) throw new BadValue(`${name}: mask ${JSON.stringify(mask)} has holes`);
  return bits;
}

export function encodeMask(prefix: Prefix): string {
  const bytes = Buffer.alloc(prefix.family === 4 ? 4 : 16);
  for (let i = 0; i < prefix.bits; i++) bytes[i >> 3] = (bytes[i >> 3] as number) | (128 >> (i & 7));
  return bytes.toString('base64');
}

/** Go's encoder escapes these in strings. */
export function goJson(value: unknown): string {
  return JSON.stringify(value).replace(
    /[<>&\u2028\u2029]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}
