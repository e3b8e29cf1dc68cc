import { setImmediate as nextTurn } from 'node:timers/promises';
import { type Address, formatAddress, formatPrefix, type Prefix } from '../../core/ip.ts';
import { labelTexts } from '../../core/labels.ts';
import type { Border, DesiredOverlay, DesiredState } from '../../datapath/desired.ts';
import type { Registered } from '../../mesh/registration.ts';
import type { DirectionPolicy } from '../../policy/result.ts';
import type { Body, Head, SavedBorder, SavedDirection, SavedFrontend, SavedOverlay } from './content.ts';
import { CHUNK, ChunkWriter, ROW_WORDS, type Tag } from './file.ts';

/** Rows between two looks at the event loop: 5 to 10 ms. */
const TURN_ROWS = 4096;
/** Targets of services, which are texts: 5 ms. */
const TURN_TARGETS = 4096;

export interface Captured {
  readonly desired: DesiredState;
  readonly head: Head;
  readonly registered: Registered | undefined;
}

/**
 * Writes down what the kernel ought to hold, in pieces. The tables are walked in turns while the facts go on: every row is
 * as it was at some moment of the walk, the policy as it is at the end of it. What changes meanwhile is in the next snapshot.
 */
export async function* capture({ desired, head, registered }: Captured): AsyncGenerator<Buffer> {
  const writer = new ChunkWriter();
  const vias = new Vias();
  yield writer.begin();
  yield writer.json(CHUNK.head, head);
  for (const family of [4, 6] as const) {
    for (const words of hostRows(desired, family, vias)) {
      yield writer.rows(family === 4 ? CHUNK.hosts4 : CHUNK.hosts6, words);
      await nextTurn();
    }
  }
  for (const part of savedServices(desired.services)) {
    yield writer.json(CHUNK.services, part);
    await nextTurn();
  }
  const { overlay } = desired;
  const body: Body = {
    border: savedBorder(desired.border),
    ingress: savedDirection(desired.ingress),
    egress: savedDirection(desired.egress),
    overlay: overlay === undefined ? null : savedOverlay(overlay),
    vias: vias.texts,
    registration: registered === undefined ? null : savedRegistration(registered),
  };
  // Classes are numbered anew when the policy changes: what refers to them is read in the same turn.
  const tables: [Tag, Uint32Array][] = [
    [CHUNK.ingress, classRows(desired.ingress)],
    [CHUNK.egress, classRows(desired.egress)],
    [CHUNK.prefixes, prefixRows(desired.addresses.prefixes(), ({ identity }) => identity)],
  ];
  if (overlay !== undefined) tables.push([CHUNK.routes, prefixRows(overlay.prefixRoutes(), ({ via }) => vias.at(via))]);
  for (const [tag, words] of tables) yield writer.rows(tag, words);
  yield writer.json(CHUNK.body, body);
  yield writer.end();
}

/** Tunnel endpoints by number: few, for many addresses. */
class Vias {
  readonly texts: string[] = [];
  readonly #numbers = new Map<string, number>();
  #last: { readonly via: Address; readonly number: number } | undefined;

  at(via: Address): number {
    if (this.#last?.via === via) return this.#last.number;
    const text = formatAddress(via);
    const known = this.#numbers.get(text);
    const number = known ?? this.texts.push(text);
    if (known === undefined) this.#numbers.set(text, number);
    this.#last = { via, number };
    return number;
  }
}

function* hostRows(desired: DesiredState, family: 4 | 6, vias: Vias): Generator<Uint32Array> {
  const hosts = family === 4 ? desired.addresses.hosts4 : desired.addresses.hosts6;
  const keys = hosts.keys();
  const width = family === 4 ? 1 : 4;
  const stride = ROW_WORDS[family === 4 ? CHUNK.hosts4 : CHUNK.hosts6] as number;
  for (let from = 0; from < keys.length; from += TURN_ROWS * width) {
    const rows = new Uint32Array(TURN_ROWS * stride);
    let at = 0;
    for (let k = from; k < Math.min(keys.length, from + TURN_ROWS * width); k += width) {
      const key = Array.from({ length: width }, (_, i) => keys[k + i] as number);
      const identity = hosts.lookup(key, 0);
      // Gone since the walk began.
      if (identity === undefined) continue;
      const via = desired.overlay?.hostRoute(family, key);
      for (const word of key) rows[at++] = word;
      rows[at++] = identity;
      rows[at++] = via === undefined ? 0 : vias.at(via);
    }
    yield rows.subarray(0, at);
  }
}

function* savedServices(services: DesiredState['services']): Generator<'off' | readonly SavedFrontend[]> {
  if (services === undefined) return;
  if (services === 'off') return yield 'off';
  let part: SavedFrontend[] = [];
  let count = 0;
  for (const key of [...services.keys()]) {
    const frontend = services.get(key);
    if (frontend === undefined) continue;
    const targets = frontend.targets.map(
      ({ address, port, weight }) => [formatAddress(address), port, weight] as const,
    );
    part.push([key, frontend.sticky ? 1 : 0, targets]);
    count += 1 + targets.length;
    if (count < TURN_TARGETS) continue;
    yield part;
    part = [];
    count = 0;
  }
  // Also when there is none: that is known, too.
  yield part;
}

function prefixRows<Entry extends { readonly prefix: Prefix }>(
  entries: Iterable<Entry>,
  lastWord: (entry: Entry) => number,
): Uint32Array {
  const words: number[] = [];
  for (const entry of entries) {
    const { family, bits, words: address } = entry.prefix;
    words.push(
      (family << 8) | bits,
      address[0] ?? 0,
      address[1] ?? 0,
      address[2] ?? 0,
      address[3] ?? 0,
      lastWord(entry),
    );
  }
  return Uint32Array.from(words);
}

function classRows(direction: DirectionPolicy): Uint32Array {
  const words: number[] = [];
  for (const [identity, { id }] of direction.identities()) words.push(identity, id);
  return Uint32Array.from(words);
}

function savedDirection(direction: DirectionPolicy): SavedDirection {
  const classes = new Map([...direction.classes(), direction.unknownClass].map((each) => [each.id, each]));
  return {
    enforcing: direction.enforcing,
    defaultDeny: direction.defaultDeny,
    unknown: direction.unknownClass.id,
    classes: [...classes.values()].map(({ id, rows }) => ({
      id,
      rows: rows.map(({ protocol, first, last, verdict, audit }) => [
        protocol,
        first,
        last,
        verdict,
        audit === true ? 1 : 0,
      ]),
    })),
  };
}

function savedBorder(border: Border): SavedBorder {
  return {
    ...border,
    watchNames: border.watchNames === true,
    stores: border.stores.map(({ address, port }) => ({ address: formatAddress(address), port })),
    nodes: border.nodes.map(formatAddress),
  };
}

function savedOverlay(overlay: DesiredOverlay): SavedOverlay {
  const { device, port, identity, source4, source6, underlayMtu, ownAddresses } = overlay;
  return {
    device,
    port,
    identity,
    source4: source4 === undefined ? null : formatAddress(source4),
    source6: source6 === undefined ? null : formatAddress(source6),
    underlayMtu,
    ownAddresses: ownAddresses.map(formatPrefix),
  };
}

/** Without what only machines read. */
export function savedRegistration(registered: Registered): NonNullable<Body['registration']> {
  const { cluster, identity, labels, ranges4, ranges6 } = registered;
  const ranges = [...ranges4, ...ranges6].map(formatPrefix);
  return { cluster: { name: cluster.name, id: cluster.id }, identity, labels: labelTexts(labels), ranges };
}
