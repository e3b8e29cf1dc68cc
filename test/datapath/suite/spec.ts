import type { NumericIdentity } from '../../../src/core/identity.ts';
import { type Address, parseAddress, parsePrefix } from '../../../src/core/ip.ts';
import { WordTable } from '../../../src/core/word-table.ts';
import type { Border, DesiredOverlay, DesiredState } from '../../../src/datapath/desired.ts';
import type { DirectionPolicy, PolicyClass, PolicyRow, Protocol, Verdict } from '../../../src/policy/result.ts';
import type { ServiceFrontend, ServiceMap } from '../../../src/service/result.ts';

/** What the kernel ought to hold, as plain data that goes over a pipe. */
export interface Spec {
  /** Single address to identity. */
  readonly hosts?: Readonly<Record<string, number>>;
  /** Prefix to identity; they may nest. */
  readonly prefixes?: Readonly<Record<string, number>>;
  readonly ingress?: PolicySpec;
  readonly egress?: PolicySpec;
  readonly devices?: readonly string[];
  readonly dualStack?: boolean;
  /** `tcp/22`. */
  readonly failsafe?: { readonly ingress?: readonly string[]; readonly egress?: readonly string[] };
  /** `10.0.0.1 2379`. */
  readonly stores?: readonly string[];
  readonly nodes?: readonly string[];
  readonly audit?: boolean;
  readonly watchNames?: boolean;
  readonly watchAllowed?: boolean;
  readonly tellRate?: number;
  readonly overlay?: { readonly device: string; readonly identity: number };
  /** By `10.96.0.1 6 80`; targets are `10.1.0.5 8080`, with a weight behind where it is not 1. */
  readonly services?: Readonly<Record<string, ServiceSpec>> | 'off';
}

export interface ServiceSpec {
  readonly sticky?: boolean;
  readonly targets: readonly string[];
}

/** `allow tcp/80`, `deny tcp/80-90`, `allow udp`, `allow icmp/8`, `allow any`; ` audit` behind for an audited row. */
export interface PolicySpec {
  /** Both true by default, as they are where a policy selects the machine. */
  readonly enforcing?: boolean;
  readonly defaultDeny?: boolean;
  /** Rows of every identity that is not named. */
  readonly others?: readonly string[];
  /** Rows by identity. Equal rows make one class. */
  readonly of?: Readonly<Record<number, readonly string[]>>;
}

export const OPEN: PolicySpec = { enforcing: false, defaultDeny: false };
export const TUNNEL_PORT = 8472;

const PROTOCOLS: Readonly<Record<string, Protocol>> = { any: 0, icmp: 1, tcp: 6, udp: 17, icmpv6: 58, sctp: 132 };

export function rowOf(text: string): PolicyRow {
  const [verdict, what = '', audit] = text.split(' ');
  const [name = '', ports] = what.split('/');
  const [first, last = first] = ports === undefined ? [0, 65535] : ports.split('-').map(Number);
  return {
    protocol: PROTOCOLS[name] as Protocol,
    first: first as number,
    last: last as number,
    verdict: verdict as Verdict,
    ...(audit === 'audit' && { audit: true }),
    rules: [],
  };
}

/** Numbers classes like the model does: equal rows have one number for as long as the process lives. */
export class Classes {
  readonly #known = new Map<string, PolicyClass>();
  /** The class of all others has a number of its own. */
  readonly #offset: number;

  constructor(offset = 0) {
    this.#offset = offset;
  }

  policy(spec: PolicySpec = OPEN): DirectionPolicy {
    const unknownClass: PolicyClass = { id: 1 + this.#offset, rows: (spec.others ?? []).map(rowOf) };
    const of = new Map<number, PolicyClass>();
    for (const [id, rows] of Object.entries(spec.of ?? {})) of.set(Number(id), this.#class(rows));
    return {
      enforcing: spec.enforcing ?? true,
      defaultDeny: spec.defaultDeny ?? true,
      unknownClass,
      classOf: (id) => of.get(id) ?? unknownClass,
      identities: () => of as unknown as Iterable<readonly [NumericIdentity, PolicyClass]>,
      classes: () => new Set([unknownClass, ...of.values()]),
    };
  }

  #class(rows: readonly string[]): PolicyClass {
    const content = rows.join();
    const known = this.#known.get(content) ?? { id: 2 + this.#offset + this.#known.size, rows: rows.map(rowOf) };
    this.#known.set(content, known);
    return known;
  }
}

export function hostTables(hosts: Readonly<Record<string, number>>): { hosts4: WordTable; hosts6: WordTable } {
  const hosts4 = new WordTable({ keyWords: 1, columns: 2 });
  const hosts6 = new WordTable({ keyWords: 4, columns: 2 });
  for (const [text, identity] of Object.entries(hosts)) {
    const { family, words } = address(text);
    const table = family === 4 ? hosts4 : hosts6;
    table.set(table.insert(words), 0, identity);
  }
  return { hosts4, hosts6 };
}

export function desiredState(spec: Spec, classes: { ingress: Classes; egress: Classes }): DesiredState {
  const { hosts4, hosts6 } = hostTables(spec.hosts ?? {});
  return {
    addresses: {
      hosts4,
      hosts6,
      prefixes: () =>
        Object.entries(spec.prefixes ?? {}).map(([text, identity]) => {
          const prefix = parsePrefix(text);
          if (prefix === undefined) throw new Error(`prefix ${text}`);
          return { prefix, identity: identity as NumericIdentity };
        }),
    },
    ingress: classes.ingress.policy(spec.ingress),
    egress: classes.egress.policy(spec.egress),
    border: borderOf(spec),
    overlay: spec.overlay && overlayOf(spec.overlay),
    services: spec.services === 'off' ? 'off' : spec.services && serviceMap(spec.services),
  };
}

export function serviceMap(services: Readonly<Record<string, ServiceSpec>>): ServiceMap {
  const frontends = new Map(Object.entries(services).map(([key, service]) => [key, frontendOf(key, service)]));
  return { size: frontends.size, get: (key) => frontends.get(key), keys: () => frontends.keys() };
}

function frontendOf(key: string, { sticky = false, targets }: ServiceSpec): ServiceFrontend {
  const [ip = '', protocol, port] = key.split(' ');
  return {
    address: address(ip),
    protocol: Number(protocol) as ServiceFrontend['protocol'],
    port: Number(port),
    sticky,
    targets: targets.map((text) => {
      const [to = '', toPort, weight = '1'] = text.split(' ');
      return { address: address(to), port: Number(toPort), weight: Number(weight) };
    }),
  };
}

function borderOf(spec: Spec): Border {
  return {
    devices: spec.devices ?? ['eth0'],
    dualStack: spec.dualStack ?? false,
    failsafe: { ingress: ports(spec.failsafe?.ingress), egress: ports(spec.failsafe?.egress) },
    stores: (spec.stores ?? []).map((text) => {
      const [host = '', port] = text.split(' ');
      return { address: address(host), port: Number(port) };
    }),
    nodes: (spec.nodes ?? []).map(address),
    tunnelPort: TUNNEL_PORT,
    audit: spec.audit ?? false,
    watchNames: spec.watchNames ?? false,
    watchAllowed: spec.watchAllowed ?? false,
    tellRate: spec.tellRate ?? 0,
  };
}

/** Device and routes of the overlay are made by somebody else: here it is only a border. */
function overlayOf({ device, identity }: { device: string; identity: number }): DesiredOverlay {
  return {
    device,
    port: TUNNEL_PORT,
    identity: identity as NumericIdentity,
    source4: undefined,
    source6: undefined,
    underlayMtu: 1500,
    ownAddresses: [],
    hostRoute: () => undefined,
    hostRoutes: () => [],
    prefixRoutes: () => [],
  };
}

function ports(texts: readonly string[] = []): Border['failsafe']['ingress'] {
  return texts.map((text) => {
    const [name = '', port] = text.split('/');
    return { protocol: PROTOCOLS[name] as 6 | 17 | 132, port: Number(port) };
  });
}

export function address(text: string): Address {
  const parsed = parseAddress(text);
  if (parsed === undefined) throw new Error(`address ${text}`);
  return parsed;
}
