import { type Address, formatAddress, parseAddress, parseIpv4, prefixOf } from '../../core/ip.ts';
import { address, BadValue, fieldsOf, list, maskBits, parseObject, quoted, text, uint } from './json.ts';

/** An IPIdentityPair of `ip/v1` (specification 2.3), in the short form that a million of them need. */
export interface AddressEntry {
  readonly address: Address;
  /** Undefined for a plain address; a prefix otherwise, even if it is as long as the address. */
  readonly bits: number | undefined;
  readonly identity: number;
  /** Many entries share one object. */
  readonly host: Address | undefined;
  readonly namespace: string;
  readonly pod: string;
  /** Names of ports that the endpoint offers. */
  readonly namedPorts: readonly EndpointPort[];
}

export interface EndpointPort {
  readonly name: string;
  readonly protocol: 6 | 17 | 132;
  readonly port: number;
}

/**
 * `key` is the address, or `network/length`. Nothing of `value` is kept.
 *
 * This is the hot path of the start. What Go's encoder writes for a plain address is read in place; everything else, and
 * everything that is wrong, goes the general way.
 *
 * @throws BadValue
 */
export function decodeAddress(key: string, value: Buffer, block: readonly [number, number]): AddressEntry {
  return decodeUsual(key, value, block) ?? decodeAny(key, value, block);
}

function decodeAny(key: string, value: Buffer, block: readonly [number, number]): AddressEntry {
  const fields = parseObject(value);
  const found = address(fields, 'IP');
  if (found === undefined) throw new BadValue('IP is missing');
  const mask = text(fields, 'Mask');
  const bits = mask === '' ? undefined : maskBits(mask, found.family, 'Mask');
  const cut = bits === undefined ? found : prefixOf(found, bits);
  const expected = bits === undefined ? formatAddress(found) : `${formatAddress(cut)}/${bits}`;
  if (key !== expected)
    throw new BadValue(`key ${quoted(key)} is not the canonical form ${expected} of ${quoted(text(fields, 'IP'))}`);
  // Not used, but a wrong type is a wrong value for everybody else.
  uint(fields, 'Key', 255);
  text(fields, 'Metadata');
  return {
    address: cut,
    bits,
    identity: identityOf(uint(fields, 'ID'), block),
    host: address(fields, 'HostIP'),
    namespace: text(fields, 'K8sNamespace'),
    pod: text(fields, 'K8sPodName'),
    namedPorts: list(fields, 'NamedPorts').flatMap(endpointPort),
  };
}

const PROTOCOLS: ReadonlyMap<string, EndpointPort['protocol']> = new Map([
  ['TCP', 6],
  ['UDP', 17],
  ['SCTP', 132],
]);
const NO_PORTS: readonly EndpointPort[] = [];

/** A port of a protocol that policies cannot name is nothing to us. */
function endpointPort(item: unknown): EndpointPort[] {
  const fields = fieldsOf(item, 'NamedPorts');
  const name = text(fields, 'Name');
  const port = uint(fields, 'Port', 65_535);
  const protocol = PROTOCOLS.get(text(fields, 'Protocol').toUpperCase());
  return protocol === undefined || name === '' || port === 0 ? [] : [{ name: name.toLowerCase(), protocol, port }];
}

function identityOf(id: number, block: readonly [number, number]): number {
  if (id >= 256 && (id < block[0] || id > block[1]))
    throw new BadValue(`ID ${id} is outside of the cluster's block ${block[0]}-${block[1]}`);
  // Host means ourselves; told by another cluster it is one of its nodes.
  return id === 1 ? 6 : id;
}

const UNUSUAL = /[^ -~]|\\/;
const NAMESPACE = ',"K8sNamespace":"';
const POD = ',"K8sPodName":"';

/** The usual value, or undefined when it is not quite that. Never throws for what the general way would take. */
function decodeUsual(key: string, value: Buffer, block: readonly [number, number]): AddressEntry | undefined {
  const found = canonical(key);
  if (found === undefined || value.length > 1024) return undefined;
  const source = value.toString('latin1');
  // With neither escapes nor anything but printable ASCII, every quote ends a string.
  if (!source.startsWith('{"IP":"') || UNUSUAL.test(source)) return undefined;
  let at = 7 + key.length;
  if (!source.startsWith(key, 7) || !source.startsWith('","Mask":null,"HostIP":"', at)) return undefined;
  at += 24;
  const hostEnd = source.indexOf('"', at);
  const host = hostAddress(source, at, hostEnd);
  if (host === null || !source.startsWith('","ID":', hostEnd)) return undefined;
  const idEnd = digitsEnd(source, hostEnd + 7);
  if (idEnd < 0 || !source.startsWith(',"Key":', idEnd)) return undefined;
  const keyEnd = digitsEnd(source, idEnd + 7);
  if (keyEnd < 0 || keyEnd - idEnd > 9 || !source.startsWith(',"Metadata":"', keyEnd)) return undefined;
  at = source.indexOf('"', keyEnd + 13) + 1;
  if (at === 0) return undefined;
  let namespace = '';
  let pod = '';
  if (source.startsWith(NAMESPACE, at)) {
    const end = source.indexOf('"', at + NAMESPACE.length);
    if (end < 0) return undefined;
    // From the bytes, not from `source`: a part of a string would keep all of it.
    namespace = value.toString('latin1', at + NAMESPACE.length, end);
    at = end + 1;
  }
  if (source.startsWith(POD, at)) {
    const end = source.indexOf('"', at + POD.length);
    if (end < 0) return undefined;
    pod = value.toString('latin1', at + POD.length, end);
    at = end + 1;
  }
  if (at !== source.length - 1 || source.charCodeAt(at) !== 125) return undefined;
  const id = Number(source.slice(hostEnd + 7, idEnd));
  return {
    address: found,
    bits: undefined,
    identity: identityOf(id, block),
    host,
    namespace,
    pod,
    namedPorts: NO_PORTS,
  };
}

/** The address, if the text is its canonical form; IPv4 has no other. */
function canonical(text: string): Address | undefined {
  const word = parseIpv4(text);
  if (word >= 0) return { family: 4, words: [word] };
  const found = text.includes(':') ? parseAddress(text) : undefined;
  return found !== undefined && formatAddress(found) === text ? found : undefined;
}

/** Behind a number as JSON writes it, of at most nine digits; -1 when there is none. */
function digitsEnd(source: string, start: number): number {
  let at = start;
  while (at < start + 10) {
    const code = source.charCodeAt(at);
    if (!(code >= 48 && code <= 57)) break;
    at++;
  }
  if (at === start || at > start + 9 || (source.charCodeAt(start) === 48 && at > start + 1)) return -1;
  return at;
}

/** Hosts by their text: some thousand nodes carry all addresses. */
const hosts = new Map<string, Address>();
const MAX_HOSTS = 20_000;

/** Undefined for an empty text, null for what is no address. */
function hostAddress(source: string, start: number, end: number): Address | undefined | null {
  if (end === start) return undefined;
  if (end < start || end - start > 45) return null;
  const written = source.slice(start, end);
  const known = hosts.get(written);
  if (known !== undefined) return known;
  const parsed = parseAddress(written);
  if (parsed === undefined) return null;
  if (hosts.size >= MAX_HOSTS) hosts.clear();
  // A copy: a slice would keep the whole value.
  hosts.set(Buffer.from(written).toString('latin1'), parsed);
  return parsed;
}
