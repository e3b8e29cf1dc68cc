import type { Counter } from '../datapath.ts';
import { TOLD, VERDICT_POINTS } from '../verdict-log.ts';
import type { Generation } from './generation.ts';
import { pointNumber, SIDES, toldNumber } from './layout.ts';

const NUMBERS: readonly (readonly [name: string, number: number])[] = [
  ...VERDICT_POINTS.map((point) => [point.name, pointNumber(point)] as const),
  ...SIDES.map((side) => [TOLD[side], toldNumber(side)] as const),
];

/** What the programs have counted, by the name of the counter. */
export function readCounters(generation: Generation): Map<string, Counter> {
  const map = generation.map('counters');
  return new Map(
    NUMBERS.map(([name, number]) => {
      const key = Buffer.alloc(4);
      key.writeUInt32LE(number);
      const value = map.get(key) ?? Buffer.alloc(16);
      const counter = { packets: Number(value.readBigUInt64LE(0)), bytes: Number(value.readBigUInt64LE(8)) };
      return [name, counter];
    }),
  );
}
