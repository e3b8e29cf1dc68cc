import { formatAddress, parseAddress } from '../../core/ip.ts';
import { BadValue } from '../../kvstore/codec/json.ts';
import {
  DEFAULT_TIMING,
  findingsOfService,
  type MachineServicePort,
  type MachineServiceSpec,
  type ServiceAffinity,
  type ServiceCheck,
  type ServiceFinding,
  type TransportName,
} from '../../kvstore/codec/machine-service.ts';
import { labelsOf, readBody, stringOf, stringsOf } from '../request-body.ts';

/** What an administrator asks for, in the words of the command line. */
export interface ServiceRequest {
  readonly name: string;
  readonly namespace: string;
  /** `80`, `80:8080/tcp`, `http=80:8080/tcp` */
  readonly ports: readonly string[];
  readonly selector: Readonly<Record<string, string>>;
  readonly global: boolean;
  /** Undefined: as `global` says. */
  readonly shared: boolean | undefined;
  readonly affinity: string;
  /** `auto`: one of each pool's family. */
  readonly addresses: readonly string[];
  /** `tcp`, `tcp:8080`, `http:/healthz`, `http:8080/healthz` */
  readonly checks: readonly string[];
  readonly interval: number | undefined;
  readonly timeout: number | undefined;
  readonly rise: number | undefined;
  readonly fall: number | undefined;
  /** The service may be there, and becomes this one. */
  readonly replace: boolean;
}

/** A request that was understood as far as it could be. Addresses without `auto`. */
export interface ReadService {
  readonly spec: MachineServiceSpec;
  readonly auto: boolean;
  readonly findings: readonly ServiceFinding[];
}

const FLAGS = ['global', 'shared', 'replace'] as const;
const NUMBERS = ['interval', 'timeout', 'rise', 'fall'] as const;
const FIELDS = ['name', 'namespace', 'ports', 'selector', 'affinity', 'addresses', 'checks', ...FLAGS, ...NUMBERS];
const DEFAULT_NAMESPACE = 'default';

/** @throws MeshError API-REQUEST */
export function readServiceRequest(body: unknown): ServiceRequest {
  return readBody(body, FIELDS, (fields) => {
    const flag = (name: string): boolean | undefined => {
      const value = fields.get(name) ?? undefined;
      if (value !== undefined && typeof value !== 'boolean') throw new BadValue(`${name} is no boolean`);
      return value;
    };
    const number = (name: string): number | undefined => {
      const value = fields.get(name) ?? undefined;
      if (value !== undefined && typeof value !== 'number') throw new BadValue(`${name} is no number`);
      return value;
    };
    return {
      name: stringOf(fields, 'name') ?? '',
      namespace: stringOf(fields, 'namespace') ?? DEFAULT_NAMESPACE,
      ports: stringsOf(fields, 'ports') ?? [],
      selector: labelsOf(fields, 'selector') ?? {},
      global: flag('global') ?? false,
      shared: flag('shared'),
      affinity: stringOf(fields, 'affinity') ?? 'none',
      addresses: stringsOf(fields, 'addresses') ?? [],
      checks: stringsOf(fields, 'checks') ?? [],
      interval: number('interval'),
      timeout: number('timeout'),
      rise: number('rise'),
      fall: number('fall'),
      replace: flag('replace') ?? false,
    };
  });
}

/** Everything that is wrong with it is found at once. */
export function readService(request: ServiceRequest): ReadService {
  const findings: ServiceFinding[] = [];
  const find = (field: string, message: string): void => void findings.push({ field, message });
  // Each with its place among the texts: some texts cannot be read, and one may be several checks.
  const placedPorts = request.ports.flatMap((text, index) =>
    readPort(text, (why) => find(`ports[${index}]`, why)).map((port) => ({ index, port })),
  );
  const ports = placedPorts.map(({ port }) => port);
  const placedChecks = request.checks.flatMap((text, index) =>
    readCheck(text, { ports, find: (why) => find(`checks[${index}]`, why) }).map((check) => ({ index, check })),
  );
  const affinity = AFFINITIES.find((each) => each === request.affinity);
  if (affinity === undefined) find('affinity', `${shown(request.affinity)} is none of ${AFFINITIES.join(', ')}`);
  const { interval = DEFAULT_TIMING.interval, rise = DEFAULT_TIMING.rise, fall = DEFAULT_TIMING.fall } = request;
  const spec: MachineServiceSpec = {
    namespace: request.namespace,
    name: request.name,
    ports,
    selector: new Map(Object.entries(request.selector)),
    // What is shared is global; what is global is shared unless it says otherwise (kvstore specification 8.1).
    global: request.global || request.shared === true,
    shared: request.shared ?? request.global,
    affinity: affinity ?? 'none',
    addresses: request.addresses.filter((text) => text !== AUTO).map(canonical),
    checks: placedChecks.map(({ check }) => check),
    timing: { interval, timeout: request.timeout ?? Math.min(DEFAULT_TIMING.timeout, interval), rise, fall },
  };
  const unread = new Set(findings.map(({ field }) => field.replace(/\[.*/, '')));
  // A port that could not be read is told once, and not as one that is missing.
  const more = findingsOfService(spec).filter(({ field }) => !(unread.has(field) && field === 'ports'));
  const placed = (field: string): string =>
    field.replace(/^(ports|checks)\[([0-9]+)\]/, (_all, list: string, place: string) => {
      const texts: readonly { readonly index: number }[] = list === 'ports' ? placedPorts : placedChecks;
      return `${list}[${texts[Number(place)]?.index ?? place}]`;
    });
  const all = [...findings, ...more.map(({ field, message }) => ({ field: placed(field), message }))];
  return { spec, auto: request.addresses.includes(AUTO), findings: all };
}

const AUTO = 'auto';
const AFFINITIES: readonly ServiceAffinity[] = ['none', 'local', 'remote'];
const PORT = /^(?:([^=]*)=)?([0-9]{1,5})(?::([0-9]{1,5}))?(?:\/([A-Za-z]+))?$/;
const PROTOCOLS: readonly TransportName[] = ['TCP', 'UDP', 'SCTP'];

function readPort(text: string, find: (why: string) => void): MachineServicePort[] {
  const match = PORT.exec(text);
  if (match === null) {
    find(`${shown(text)} is no port such as 80, 80:8080/tcp or http=80:8080/tcp`);
    return [];
  }
  const [, name = '', port = '', target = port, word = 'TCP'] = match;
  const protocol = PROTOCOLS.find((each) => each === word.toUpperCase());
  if (protocol === undefined) {
    find(`protocol ${shown(word)} is none of tcp, udp, sctp`);
    return [];
  }
  return [{ name, protocol, port: Number(port), targetPort: Number(target) }];
}

const CHECK = /^(?:(tcp)(?::([0-9]{1,5}))?|(http):([0-9]{1,5})?(\/.*))$/;

/** Without a port, `tcp` means every TCP port of the service, and `http` the first of them. */
function readCheck(
  text: string,
  options: { readonly ports: readonly MachineServicePort[]; readonly find: (why: string) => void },
): ServiceCheck[] {
  const { ports, find } = options;
  const match = CHECK.exec(text);
  if (match === null) {
    find(`${shown(text)} is no check such as tcp, tcp:8080, http:/healthz or http:8080/healthz`);
    return [];
  }
  const [, tcp, tcpPort, , httpPort, path = ''] = match;
  const given = tcpPort ?? httpPort;
  const targets = ports.filter(({ protocol }) => protocol === 'TCP').map(({ targetPort }) => targetPort);
  const wanted = given === undefined ? [...new Set(targets)] : [Number(given)];
  if (wanted.length === 0) find('the service has no TCP port: say which one, such as tcp:8080');
  if (tcp !== undefined) return wanted.map((port) => ({ type: 'tcp', port }));
  return wanted.slice(0, 1).map((port) => ({ type: 'http', port, path }));
}

function canonical(text: string): string {
  const address = parseAddress(text);
  return address === undefined ? text : formatAddress(address);
}

function shown(text: string): string {
  return JSON.stringify(text.slice(0, 100));
}
