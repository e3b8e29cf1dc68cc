import { MAX_TARGETS } from '../../service/result.ts';

/**
 * How many slots the targets of a frontend are spread over. A rule needs the number as a constant, so there is one rule for
 * each that is in use: up to 64 targets have a slot each, more have eight slots each at least, so that none gets more than
 * an eighth above its share. Sticky frontends have many more: clients are spread by them (`stickySlots`).
 */
const EXACT = 64;
const SPREAD = 8;
const TABLES = [512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536] as const;
const LARGEST = MAX_TARGETS * SPREAD;

export const SIZES: readonly number[] = [...Array.from({ length: EXACT }, (_, index) => index + 1), ...TABLES];
export const STICKY_SIZES: readonly number[] = TABLES.filter((size) => size >= 1024);
/** Up to so many targets clients are spread without regard to what is held. */
export const MAX_RENDEZVOUS = 64;

/** `shares`: the sum of all weights. */
export function sizeFor(shares: number): number {
  if (shares <= EXACT) return shares;
  return TABLES.find((size) => size >= shares * SPREAD) ?? LARGEST;
}

/** The same for a sticky frontend with so many targets. */
export function stickySizeFor(targets: number): number {
  return targets <= 16 ? 1024 : targets <= MAX_RENDEZVOUS ? 4096 : Math.max(4096, sizeFor(targets));
}

/** What the kernel's map of frontends holds: the number of slots, and how one is chosen. */
const STICKY = 0x20000;
export const REFUSE = 0x40000;

export function choiceOf(size: number, sticky: boolean): number {
  return size === 0 ? REFUSE : sticky ? size | STICKY : size;
}

export function readChoice(choice: number): { readonly size: number; readonly sticky: boolean } {
  if ((choice & REFUSE) !== 0) return { size: 0, sticky: false };
  return { size: choice & (STICKY - 1), sticky: (choice & STICKY) !== 0 };
}
