import { formatAddress, parseAddress } from '../../core/ip.ts';
import { isDnsLabel, isLabelKey, isLabelValue, isServiceName } from '../../core/kubernetes-names.ts';
import { BadValue, quoted } from './json.ts';

/**
 * A service that runs on machines of a hub, as its administrator wants it: `mesh-agent/v1/services/<namespace>/<name>`. The hub
 * reads it to publish backends, machines to know what they serve and have to check.
 */
export interface MachineService {
  /** Unlike that of any other service, also of one that had the same name. */
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  readonly ports: readonly MachineServicePort[];
  /** Labels that a machine of the namespace has to have, all of them. Never empty. */
  readonly selector: ReadonlyMap<string, string>;
  /** Backends of other clusters count as well. */
  readonly global: boolean;
  /** Other clusters may use the machines; only where it is global. */
  readonly shared: boolean;
  /** Which backends the machines of the hub prefer as clients. */
  readonly affinity: ServiceAffinity;
  /** Frontend addresses on the machines of the hub, canonical: none, or one of a family. */
  readonly addresses: readonly string[];
  /** All have to succeed. Empty: a machine that is registered serves. */
  readonly checks: readonly ServiceCheck[];
  readonly timing: CheckTiming;
  /** Milliseconds since the epoch. */
  readonly created: number;
  readonly changed: number;
}

export type ServiceAffinity = 'none' | 'local' | 'remote';
export type TransportName = 'TCP' | 'UDP' | 'SCTP';

export interface MachineServicePort {
  /** Empty where there is one port alone; else the name of the same port in the clusters. */
  readonly name: string;
  readonly protocol: TransportName;
  readonly port: number;
  /** On the machines. */
  readonly targetPort: number;
}

/** What a machine does on its own address to see whether it serves. */
export type ServiceCheck =
  | { readonly type: 'tcp'; readonly port: number }
  | { readonly type: 'http'; readonly port: number; readonly path: string };

/** Seconds, and how many results in a row change the state. */
export interface CheckTiming {
  readonly interval: number;
  readonly timeout: number;
  readonly rise: number;
  readonly fall: number;
}

export const DEFAULT_TIMING: CheckTiming = { interval: 5, timeout: 2, rise: 2, fall: 3 };
export const SERVICE_LIMITS = { ports: 32, selector: 16, checks: 8, path: 256, seconds: 3600, times: 10 } as const;

/** The part of it that an administrator chooses. */
export type MachineServiceSpec = Omit<MachineService, 'uid' | 'created' | 'changed'>;

/** What is wrong with one field. */
export interface ServiceFinding {
  /** `ports[1].name` */
  readonly field: string;
  readonly message: string;
}

/** Everything that is wrong with what is wanted; empty when it can be taken. */
export function findingsOfService(spec: MachineServiceSpec): ServiceFinding[] {
  const findings: ServiceFinding[] = [];
  const find = (field: string, message: string): void => void findings.push({ field, message });
  if (!isServiceName(spec.name))
    find('name', `${quoted(spec.name)} is no name of a service: a-z, 0-9 and -, a letter first, at most 63`);
  if (!isDnsLabel(spec.namespace)) find('namespace', `${quoted(spec.namespace)} is no DNS label`);
  findInPorts(spec.ports, find);
  findInSelector(spec.selector, find);
  if (spec.shared && !spec.global) find('shared', 'a service that is shared is global');
  findInAddresses(spec.addresses, find);
  findInChecks(spec, find);
  return findings;
}

type Find = (field: string, message: string) => void;

function findInPorts(ports: readonly MachineServicePort[], find: Find): void {
  if (ports.length === 0) find('ports', 'there is none');
  if (ports.length > SERVICE_LIMITS.ports) find('ports', `${ports.length} are more than ${SERVICE_LIMITS.ports}`);
  const names = new Set<string>();
  const numbers = new Set<string>();
  for (const [index, { name, protocol, port, targetPort }] of ports.slice(0, SERVICE_LIMITS.ports).entries()) {
    const field = `ports[${index}]`;
    for (const number of new Set([port, targetPort]))
      if (!isPort(number)) find(field, `${number} is no port: 1 to 65535`);
    if (name === '' && ports.length > 1) find(field, 'of several ports each has a name, such as http=80:8080/tcp');
    if (name !== '' && !isDnsLabel(name)) find(field, `name ${quoted(name)} is no DNS label`);
    if (name !== '' && names.has(name)) find(field, `name ${quoted(name)} is there twice`);
    names.add(name);
    const number = `${port}/${protocol}`;
    if (numbers.has(number)) find(field, `${number} is there twice`);
    numbers.add(number);
  }
}

function findInSelector(selector: ReadonlyMap<string, string>, find: Find): void {
  if (selector.size === 0) find('selector', 'one label at least: machines are chosen by it');
  if (selector.size > SERVICE_LIMITS.selector)
    find('selector', `${selector.size} labels are more than ${SERVICE_LIMITS.selector}`);
  for (const [key, value] of selector) {
    if (!isLabelKey(key)) find('selector', `${quoted(key)} is no key of a label`);
    else if (!isLabelValue(value)) find('selector', `${quoted(value)} is no value of label ${key}`);
  }
}

function findInAddresses(addresses: readonly string[], find: Find): void {
  const families = new Set<number>();
  for (const text of addresses) {
    const address = parseAddress(text);
    if (address === undefined || formatAddress(address) !== text) find('addresses', `${quoted(text)} is no address`);
    else if (families.has(address.family)) find('addresses', `${text} is the second of its family`);
    if (address !== undefined) families.add(address.family);
  }
}

function findInChecks({ checks, timing }: MachineServiceSpec, find: Find): void {
  if (checks.length > SERVICE_LIMITS.checks) find('checks', `${checks.length} are more than ${SERVICE_LIMITS.checks}`);
  for (const [index, check] of checks.slice(0, SERVICE_LIMITS.checks).entries()) {
    if (!isPort(check.port)) find(`checks[${index}]`, `${check.port} is no port: 1 to 65535`);
    if (check.type === 'http' && !isPath(check.path))
      find(`checks[${index}]`, `${quoted(check.path)} is no path: it begins with / and has no spaces`);
  }
  const { interval, timeout, rise, fall } = timing;
  for (const [field, value, most] of [
    ['interval', interval, SERVICE_LIMITS.seconds],
    ['timeout', timeout, interval],
    ['rise', rise, SERVICE_LIMITS.times],
    ['fall', fall, SERVICE_LIMITS.times],
  ] as const)
    if (!Number.isInteger(value) || value < 1 || value > most)
      find(field, `${value} is no whole number from 1 to ${most}`);
}

function isPort(number: number): boolean {
  return Number.isInteger(number) && number >= 1 && number <= 65535;
}

function isPath(path: string): boolean {
  return path.length <= SERVICE_LIMITS.path && /^\/[\x21-\x22\x24-\x7e]*$/.test(path);
}

const VERSION = 1;

export function encodeMachineService(service: MachineService): string {
  const { selector, created, changed, ...rest } = service;
  return JSON.stringify({
    version: VERSION,
    ...rest,
    selector: Object.fromEntries(selector),
    created: new Date(created).toISOString(),
    changed: new Date(changed).toISOString(),
  });
}

const FIELDS: ReadonlySet<string> = new Set([
  ...['version', 'uid', 'namespace', 'name', 'ports', 'selector', 'global', 'shared'],
  ...['affinity', 'addresses', 'checks', 'timing', 'created', 'changed'],
]);
const MAX_BYTES = 65_536;

/**
 * Strict: of an object of a newer version, or with a field that is not known, half might be the wrong half. `key` is
 * `<namespace>/<name>`. @throws BadValue
 */
export function decodeMachineService(key: string, value: Buffer): MachineService {
  if (value.length > MAX_BYTES) throw new BadValue(`a value of ${value.length} bytes is too long`);
  const fields = objectOf(parse(value), 'value');
  if (fields.version !== VERSION) throw new BadValue(`version ${quoted(fields.version)} is not ${VERSION}`);
  const unknown = Object.keys(fields).find((name) => !FIELDS.has(name));
  if (unknown !== undefined) throw new BadValue(`unknown field ${quoted(unknown)}`);
  const service: MachineService = {
    uid: textOf(fields, 'uid'),
    namespace: textOf(fields, 'namespace'),
    name: textOf(fields, 'name'),
    ports: listOf(fields, 'ports').map(portOf),
    selector: selectorOf(objectOf(fields.selector, 'selector')),
    global: flagOf(fields, 'global'),
    shared: flagOf(fields, 'shared'),
    affinity: choiceOf(fields, 'affinity', ['none', 'local', 'remote']),
    addresses: listOf(fields, 'addresses').map((each) => stringOf(each, 'addresses')),
    checks: listOf(fields, 'checks').map(checkOf),
    timing: timingOf(objectOf(fields.timing, 'timing')),
    created: timeOf(fields, 'created'),
    changed: timeOf(fields, 'changed'),
  };
  const [wrong] = findingsOfService(service);
  if (wrong !== undefined) throw new BadValue(`${wrong.field}: ${wrong.message}`);
  if (key !== `${service.namespace}/${service.name}`) throw new BadValue(`${quoted(service.name)} is not the key`);
  return service;
}

type Fields = Readonly<Record<string, unknown>>;

function parse(value: Buffer): unknown {
  try {
    return JSON.parse(value.toString('utf8'));
  } catch (error) {
    throw new BadValue(`not JSON: ${(error as Error).message.slice(0, 120)}`);
  }
}

function portOf(item: unknown): MachineServicePort {
  const fields = objectOf(item, 'ports');
  return {
    name: textOf(fields, 'name'),
    protocol: choiceOf(fields, 'protocol', ['TCP', 'UDP', 'SCTP']),
    port: numberOf(fields, 'port'),
    targetPort: numberOf(fields, 'targetPort'),
  };
}

function checkOf(item: unknown): ServiceCheck {
  const fields = objectOf(item, 'checks');
  const port = numberOf(fields, 'port');
  if (choiceOf(fields, 'type', ['tcp', 'http']) === 'tcp') return { type: 'tcp', port };
  return { type: 'http', port, path: textOf(fields, 'path') };
}

function timingOf(fields: Fields): CheckTiming {
  const [interval, timeout] = [numberOf(fields, 'interval'), numberOf(fields, 'timeout')];
  return { interval, timeout, rise: numberOf(fields, 'rise'), fall: numberOf(fields, 'fall') };
}

function selectorOf(fields: Fields): ReadonlyMap<string, string> {
  return new Map(Object.entries(fields).map(([key, value]) => [key, stringOf(value, `selector.${key.slice(0, 80)}`)]));
}

function objectOf(value: unknown, name: string): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new BadValue(`${name} is no object`);
  return value as Fields;
}

function listOf(fields: Fields, name: string): readonly unknown[] {
  const value = fields[name];
  if (!Array.isArray(value)) throw new BadValue(`${name} is no list`);
  return value;
}

function stringOf(value: unknown, name: string): string {
  if (typeof value !== 'string') throw new BadValue(`${name} is no string`);
  return value;
}

function textOf(fields: Fields, name: string): string {
  return stringOf(fields[name], name);
}

function numberOf(fields: Fields, name: string): number {
  const value = fields[name];
  if (typeof value !== 'number') throw new BadValue(`${name} is no number`);
  return value;
}

function flagOf(fields: Fields, name: string): boolean {
  const value = fields[name];
  if (typeof value !== 'boolean') throw new BadValue(`${name} is no boolean`);
  return value;
}

function choiceOf<Choice extends string>(fields: Fields, name: string, choices: readonly Choice[]): Choice {
  const found = choices.find((choice) => choice === fields[name]);
  if (found === undefined) throw new BadValue(`${name} ${quoted(fields[name])} is none of ${choices.join(', ')}`);
  return found;
}

function timeOf(fields: Fields, name: string): number {
  const time = Date.parse(textOf(fields, name));
  if (Number.isNaN(time)) throw new BadValue(`${name} is no time`);
  return time;
}
