import { setImmediate as nextTurn } from 'node:timers/promises';
import { identity, type NumericIdentity } from '../../core/identity.ts';
import {
  type Address,
  addressBits,
  type Prefix,
  parseAddress,
  parsePrefix,
  prefixOf,
  type Words,
} from '../../core/ip.ts';
import { WordTable } from '../../core/word-table.ts';
import type { Border, DesiredAddresses, DesiredOverlay, DesiredState, TransportPort } from '../../datapath/desired.ts';
import type { DirectionPolicy, PolicyClass, PolicyRow } from '../../policy/result.ts';
import { type FrontendKey, MAX_WEIGHT, type ServiceFrontend } from '../../service/result.ts';
import type { Body, Head, SavedBorder, SavedDirection, SavedFrontend } from './content.ts';
import { CHUNK, type Chunk, FORMAT, ROW_WORDS, readChunks, refused, type Tag } from './file.ts';

/** Columns of the tables of single addresses. */
const COLUMN = { identity: 0, via: 1 } as const;
const PORTS = 65536;
/** Rows between two looks at the event loop. */
const TURN_ROWS = 16_384;

export interface Restored {
  readonly head: Head;
  readonly registration: Body['registration'];
  readonly state: RestoredState;
}

/** What a snapshot says that the kernel ought to hold. */
export interface RestoredState extends DesiredState {
  readonly addresses: DesiredAddresses;
}

/** @throws MeshError AGT-LASTGOOD: damaged, of another version, or with content that makes no sense */
export async function restoreState(file: Buffer): Promise<Restored> {
  const chunks = await readChunks(file);
  try {
    const json = (tag: Tag): unknown => {
      const found = chunks.find((chunk) => chunk.tag === tag);
      if (found === undefined) throw new Error('a part is missing');
      return JSON.parse(found.payload.toString());
    };
    const head = checkHead(json(CHUNK.head));
    const body = json(CHUNK.body) as Body;
    const vias = body.vias.map(addressOf);
    const rows = (tag: Tag): Iterable<Uint32Array> => rowsOf(chunks, tag);
    const hosts4 = await table(4, rows(CHUNK.hosts4), vias.length);
    const hosts6 = await table(6, rows(CHUNK.hosts6), vias.length);
    const prefixes = mapRows(rows(CHUNK.prefixes), (row) => ({ prefix: prefixAt(row), identity: identityAt(row, 5) }));
    const routes = mapRows(rows(CHUNK.routes), (row) => ({
      prefix: prefixAt(row),
      via: viaAt(vias, row[5] as number),
    }));
    return {
      head,
      registration: registrationOf(body.registration),
      state: {
        addresses: { hosts4, hosts6, prefixes: () => prefixes },
        ingress: direction(body.ingress, rows(CHUNK.ingress)),
        egress: direction(body.egress, rows(CHUNK.egress)),
        border: border(body.border),
        services: services(chunks),
        overlay: body.overlay === null ? undefined : overlay(body.overlay, { hosts4, hosts6, vias, routes }),
      },
    };
  } catch (cause) {
    throw refused('its content makes no sense', cause);
  }
}

function registrationOf(saved: Body['registration']): Body['registration'] {
  if (saved === null) return null;
  const { cluster, labels, ranges } = saved;
  return {
    cluster: { name: text(cluster.name), id: integer(cluster.id, 512) },
    identity: integer(saved.identity, 2 ** 32),
    labels: labels.map(text),
    ranges: ranges.map(text),
  };
}

/** @throws Error */
export function checkHead(found: unknown): Head {
  const { format, version, name, cluster, machine, savedAt } = (found ?? {}) as Partial<Head>;
  const fine = [version, name, cluster, machine].every((text) => typeof text === 'string') && Number.isFinite(savedAt);
  if (format !== FORMAT || !fine) throw new Error('the head is not of this format');
  return found as Head;
}

function* rowsOf(chunks: readonly Chunk[], tag: Tag): Iterable<Uint32Array> {
  const width = ROW_WORDS[tag] ?? 1;
  const row = new Uint32Array(width);
  for (const { tag: found, payload } of chunks) {
    if (found !== tag) continue;
    if (payload.length % (width * 4) !== 0) throw new Error('a row is cut off');
    for (let at = 0; at < payload.length; at += width * 4) {
      for (let i = 0; i < width; i++) row[i] = payload.readUInt32LE(at + i * 4);
      // One row for all: whoever keeps it copies it.
      yield row;
    }
  }
}

function mapRows<Made>(rows: Iterable<Uint32Array>, make: (row: Uint32Array) => Made): Made[] {
  const made: Made[] = [];
  for (const row of rows) made.push(make(row));
  return made;
}

async function table(family: 4 | 6, rows: Iterable<Uint32Array>, viaCount: number): Promise<WordTable> {
  const keyWords = family === 4 ? 1 : 4;
  const found = new WordTable({ keyWords, columns: 2 });
  for (const row of rows) {
    const via = row[keyWords + 1] as number;
    const slot = found.insert(row.subarray(0, keyWords));
    found.set(slot, COLUMN.identity, identityAt(row, keyWords));
    if (via > viaCount) throw new Error('a tunnel endpoint is missing');
    found.set(slot, COLUMN.via, via);
    if (found.size % TURN_ROWS === 0) await nextTurn();
  }
  return found;
}

function identityAt(row: Uint32Array, at: number): NumericIdentity {
  const found = row[at] as number;
  if (found === 0) throw new Error('an address without an identity');
  return identity(found);
}

function prefixAt(row: Uint32Array): Prefix {
  const [kind, ...words] = row;
  const family = (kind as number) >>> 8;
  const bits = (kind as number) & 255;
  if ((family !== 4 && family !== 6) || bits > addressBits(family)) throw new Error('a prefix of no family');
  return prefixOf({ family, words: words.slice(0, family === 4 ? 1 : 4) }, bits);
}

function viaAt(vias: readonly Address[], number: number): Address {
  const via = vias[number - 1];
  if (via === undefined) throw new Error('a tunnel endpoint is missing');
  return via;
}

function direction(saved: SavedDirection, rows: Iterable<Uint32Array>): DirectionPolicy {
  const classes = new Map<number, PolicyClass>();
  for (const { id, rows: savedRows } of saved.classes) {
    classes.set(integer(id, 2 ** 32), { id, rows: savedRows.map(policyRow) });
  }
  const at = (id: number): PolicyClass => {
    const found = classes.get(id);
    if (found === undefined) throw new Error('a class is missing');
    return found;
  };
  const unknownClass = at(saved.unknown);
  const byIdentity = new Map<NumericIdentity, PolicyClass>();
  for (const row of rows) byIdentity.set(identity(row[0] as number), at(row[1] as number));
  return {
    enforcing: flag(saved.enforcing),
    defaultDeny: flag(saved.defaultDeny),
    unknownClass,
    classOf: (id) => byIdentity.get(id) ?? unknownClass,
    identities: () => byIdentity,
    classes: () => classes.values(),
  };
}

function policyRow([
  protocol,
  first,
  last,
  verdict,
  audit,
]: SavedDirection['classes'][number]['rows'][number]): PolicyRow {
  if (verdict !== 'allow' && verdict !== 'deny') throw new Error('a row without a verdict');
  return {
    protocol: integer(protocol, 256) as PolicyRow['protocol'],
    first: integer(first, PORTS),
    last: integer(last, PORTS),
    verdict,
    ...(audit === 1 && { audit: true }),
    rules: [],
  };
}

function services(chunks: readonly Chunk[]): DesiredState['services'] {
  const parts = chunks.filter(({ tag }) => tag === CHUNK.services).map(({ payload }) => JSON.parse(payload.toString()));
  if (parts.length === 0) return undefined;
  if (parts[0] === 'off') return 'off';
  const found = new Map<FrontendKey, ServiceFrontend>();
  for (const [key, sticky, targets] of parts.flat() as SavedFrontend[]) {
    const [address = '', protocol, port] = text(key).split(' ');
    found.set(key, {
      address: addressOf(address),
      protocol: protocolOf(Number(protocol)),
      port: integer(Number(port), PORTS),
      sticky: sticky === 1,
      targets: targets.map(([of, at, weight]) => ({
        address: addressOf(of),
        port: integer(at, PORTS),
        weight: integer(weight, MAX_WEIGHT + 1),
      })),
    });
  }
  return found;
}

function border(saved: SavedBorder): Border {
  return {
    devices: saved.devices.map(text),
    dualStack: flag(saved.dualStack),
    failsafe: { ingress: saved.failsafe.ingress.map(transportPort), egress: saved.failsafe.egress.map(transportPort) },
    stores: saved.stores.map(({ address, port }) => ({ address: addressOf(address), port: integer(port, PORTS) })),
    nodes: saved.nodes.map(addressOf),
    tunnelPort: integer(saved.tunnelPort, PORTS),
    watchNames: flag(saved.watchNames),
    audit: flag(saved.audit),
  };
}

interface Tables {
  readonly hosts4: WordTable;
  readonly hosts6: WordTable;
  readonly vias: readonly Address[];
  readonly routes: readonly { readonly prefix: Prefix; readonly via: Address }[];
}

function overlay(saved: NonNullable<Body['overlay']>, tables: Tables): DesiredOverlay {
  const { hosts4, hosts6, vias, routes } = tables;
  const hostRoute = (family: 4 | 6, key: Words): Address | undefined => {
    const via = (family === 4 ? hosts4 : hosts6).lookup(key, COLUMN.via);
    return via === undefined ? undefined : vias[via - 1];
  };
  return {
    device: text(saved.device),
    port: integer(saved.port, PORTS),
    identity: identity(integer(saved.identity, 2 ** 32)),
    source4: saved.source4 === null ? undefined : addressOf(saved.source4),
    source6: saved.source6 === null ? undefined : addressOf(saved.source6),
    underlayMtu: integer(saved.underlayMtu, 1 << 20),
    ownAddresses: saved.ownAddresses.map((each) => {
      const prefix = parsePrefix(each);
      if (prefix === undefined) throw new Error('an own address is none');
      return prefix;
    }),
    hostRoute,
    *hostRoutes() {
      for (const [hosts, family] of [
        [hosts4, 4],
        [hosts6, 6],
      ] as const) {
        const keys = hosts.keys();
        for (let at = 0; at < keys.length; at += hosts.keyWords) {
          const words = Array.from(keys.subarray(at, at + hosts.keyWords));
          const via = hostRoute(family, words);
          if (via !== undefined) yield { prefix: { family, words, bits: addressBits(family) }, via };
        }
      }
    },
    prefixRoutes: () => routes,
  };
}

function transportPort({ protocol, port }: TransportPort): TransportPort {
  return { protocol: protocolOf(protocol), port: integer(port, PORTS) };
}

function protocolOf(found: number): TransportPort['protocol'] {
  if (found !== 6 && found !== 17 && found !== 132) throw new Error('a port of no protocol');
  return found;
}

function addressOf(found: string): Address {
  const address = parseAddress(found);
  if (address === undefined) throw new Error('an address is none');
  return address;
}

function integer(found: number, below: number): number {
  if (!Number.isInteger(found) || found < 0 || found >= below) throw new Error('a number is out of range');
  return found;
}

function text(found: string): string {
  if (typeof found !== 'string') throw new Error('a name is none');
  return found;
}

function flag(found: boolean): boolean {
  if (typeof found !== 'boolean') throw new Error('a flag is none');
  return found;
}
