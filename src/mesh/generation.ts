/**
 * Generations number the lists of one kind of facts of one cluster: what carries an older one than the last list was not
 * listed again. They have 16 bits in the compact tables, so they wrap, and are compared by distance.
 */
const BITS = 0xffff;

export function nextAfter(generation: number): number {
  return (generation + 1) & BITS;
}

export function isOlder(generation: number, than: number): boolean {
  const distance = (than - generation) & BITS;
  return distance !== 0 && distance <= BITS >> 1;
}
