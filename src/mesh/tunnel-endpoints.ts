import { type Address, formatIpv6 } from '../core/ip.ts';

/**
 * Tunnel endpoints by a small number, so that a million addresses name their node in one word each. A number belongs to
 * its address for as long as a claim uses it, and is given away again after that. 0 is none.
 */
export class TunnelEndpoints {
  readonly #addresses: (Address | undefined)[] = [undefined];
  readonly #uses: number[] = [0];
  readonly #free: number[] = [];
  readonly #by4 = new Map<number, number>();
  readonly #by6 = new Map<string, number>();

  /** Tunnel endpoints that are in use. */
  get size(): number {
    return this.#by4.size + this.#by6.size;
  }

  at(index: number): Address | undefined {
    return this.#addresses[index];
  }

  /** The number of an address; whoever stores it must `retain` it before anything else happens. */
  indexOf(address: Address | undefined): number {
    if (address === undefined) return 0;
    const known = this.#find(address);
    if (known !== undefined) return known;
    const index = this.#free.pop() ?? this.#addresses.length;
    this.#addresses[index] = address;
    this.#uses[index] = 0;
    if (address.family === 4) this.#by4.set(address.words[0] as number, index);
    else this.#by6.set(formatIpv6(address.words), index);
    return index;
  }

  retain(index: number): void {
    this.#uses[index] = (this.#uses[index] ?? 0) + 1;
  }

  release(index: number): void {
    const uses = (this.#uses[index] ?? 0) - 1;
    this.#uses[index] = uses;
    const address = this.#addresses[index];
    if (uses > 0 || address === undefined) return;
    if (address.family === 4) this.#by4.delete(address.words[0] as number);
    else this.#by6.delete(formatIpv6(address.words));
    this.#addresses[index] = undefined;
    this.#free.push(index);
  }

  #find(address: Address): number | undefined {
    return address.family === 4 ? this.#by4.get(address.words[0] as number) : this.#by6.get(formatIpv6(address.words));
  }
}
