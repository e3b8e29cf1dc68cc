import { parseIpv6 } from '../../core/ip.ts';
import type { Border, DesiredChanges, DesiredState } from '../desired.ts';
import type { ChangeSet } from './change-set.ts';
import type { Generation } from './generation.ts';
import type { HeldState } from './held.ts';
import { DIRECTION, FLAG, PASS, type PolicyConfig, passKey, SIDES, VERSIONED_BYTES } from './layout.ts';
import type { Cell } from './rows.ts';

/** Writes into a change set what the way to `desired` takes. @returns the configuration that belongs to it */
export async function writeChanges(of: {
  readonly desired: DesiredState;
  readonly changes: DesiredChanges;
  readonly held: HeldState;
  readonly set: ChangeSet;
  readonly generation: () => Generation;
}): Promise<PolicyConfig> {
  const { desired, held, set } = of;
  const { addresses, border } = desired;
  const audits = border.audit !== ((held.config?.flags ?? 0) & FLAG.audit) > 0;
  const everything = of.changes.everything === true;
  const changes: DesiredChanges = everything ? { everything } : of.changes;
  for (const side of SIDES) {
    const direction = DIRECTION[side];
    const changed = changes[direction];
    if (!everything && !audits && changed === undefined) continue;
    held.classes[side].become(
      desired[direction],
      {
        changes: everything || audits ? undefined : changed,
        audit: border.audit,
        counted: (cell, number) => countedIn(of.generation(), cell, number),
      },
      set,
    );
  }
  if (everything || changes.prefixes === true)
    for (const family of [4, 6] as const) held.prefixes[family].become(addresses.prefixes(), set);
  if (everything || changes.border === true || changes.overlay === true) becomePasses(desired, held, set);
  await set.reserve('hosts4', addresses.hosts4.size);
  await set.reserve('hosts6', addresses.hosts6.size);
  if (everything) {
    await held.hosts[4].become(addresses.hosts4, set);
    await held.hosts[6].become(addresses.hosts6, set);
  } else {
    await held.hosts[4].putSome(words4(changes.hosts4 ?? []), addresses.hosts4, set);
    await held.hosts[6].putSome(words6(changes.hosts6 ?? []), addresses.hosts6, set);
  }
  return configOf(desired, held);
}

function* words4(addresses: Iterable<number>): Iterable<readonly number[]> {
  for (const word of addresses) yield [word];
}

function* words6(addresses: Iterable<string>): Iterable<readonly number[]> {
  for (const text of addresses) {
    const words = parseIpv6(text);
    if (words !== undefined) yield words;
  }
}

function countedIn(generation: Generation, cell: Cell, classNumber: number): { packets: bigint; bytes: bigint } {
  const value = generation.map(cell.map).get(Buffer.from(cell.key(classNumber), 'latin1'));
  if (value === undefined) return { packets: 0n, bytes: 0n };
  return {
    packets: value.readBigUInt64LE(VERSIONED_BYTES),
    bytes: value.readBigUInt64LE(VERSIONED_BYTES + 8),
  };
}

function tunnelOpen({ border, overlay }: DesiredState): boolean {
  return overlay !== undefined && border.tunnelPort > 0;
}

/** What passes whatever the policy says, and the nodes of the overlay. */
function becomePasses(desired: DesiredState, held: HeldState, set: ChangeSet): void {
  const { failsafe, stores, nodes }: Border = desired.border;
  const wanted = new Set<string>([
    ...SIDES.flatMap((side) =>
      failsafe[DIRECTION[side]].map((port) => passKey({ kind: PASS.failsafe[side], ...port })),
    ),
    ...stores.map((store) => passKey({ kind: PASS.store, ...store })),
    ...(tunnelOpen(desired) ? nodes : []).map((address) => passKey({ kind: PASS.node, address })),
  ]);
  for (const key of [...held.passes.keys()]) {
    if (wanted.has(key)) continue;
    set.put({ map: 'passes', before: 1, after: 0 }, key);
    held.passes.delete(key);
  }
  for (const key of wanted) {
    if (held.passes.has(key)) continue;
    set.put({ map: 'passes', before: 0, after: 1 }, key);
    held.passes.set(key, 1);
  }
}

function configOf(desired: DesiredState, held: HeldState): PolicyConfig {
  const { border } = desired;
  const { classes, prefixes } = held;
  const flags = [
    border.audit && FLAG.audit,
    border.watchAllowed === true && FLAG.watchAllowed,
    border.watchNames === true && FLAG.tellNames,
    tunnelOpen(desired) && FLAG.overlay,
    border.failsafe.ingress.length > 0 && FLAG.failsafe.in,
    border.failsafe.egress.length > 0 && FLAG.failsafe.out,
    classes.in.hasRanges && FLAG.ranges.in,
    classes.out.hasRanges && FLAG.ranges.out,
    border.stores.length > 0 && FLAG.stores,
    prefixes[4].held.size + prefixes[6].held.size > 0 && FLAG.prefixes,
  ];
  return {
    flags: flags.reduce<number>((all, flag) => all | (flag === false ? 0 : flag), 0),
    rate: border.tellRate ?? 0,
    world: border.dualStack ? [9, 10] : [2, 2],
    others: [classes.in.others, classes.out.others],
    tunnelPort: border.tunnelPort,
    // Chosen once: packets on their way carry it.
    arrived: held.config?.arrived ?? 1 + Math.floor(Math.random() * 0xfffe),
  };
}
