import { MeshError, messageOf } from '../core/errors.ts';
import type { RangeResponse, ResponseHeader } from './messages.ts';

/**
 * Which data set a store shows. etcd names it by a cluster id, but a store that was emptied and made again with the same
 * token and addresses has the same id and starts at revision 1: a watch that is resumed there waits silently for a
 * revision that is far away (kvstore specification 4.2 and 11.8 no. 30). So the revision must never go back, and after
 * a break a key that was seen is looked at again: in another history its modification revision is another one.
 */
export class DataSet {
  #clusterId: string | undefined;
  #revision = 0;
  #witness: { readonly key: string; readonly modRevision: number } | undefined;

  get clusterId(): string | undefined {
    return this.#clusterId;
  }

  /** The highest revision seen. */
  get revision(): number {
    return this.#revision;
  }

  /**
   * Takes a header in. The answer says why it is another data set than before, which is then the present one. `least` is
   * the revision known when the request was sent, for answers that went through the quorum.
   */
  see(header: ResponseHeader, least = 0): string | undefined {
    const known = this.#clusterId;
    if (known === undefined || (known === header.clusterId && header.revision >= least)) {
      this.#clusterId = header.clusterId;
      this.#revision = Math.max(this.#revision, header.revision);
      return undefined;
    }
    this.#clusterId = header.clusterId;
    this.#revision = header.revision;
    this.#witness = undefined;
    return known === header.clusterId
      ? `etcd revision went back from ${least} to ${header.revision}`
      : `etcd cluster ID has changed from ${known} to ${header.clusterId}`;
  }

  /** Remembers that a key had a modification revision. */
  remember(key: string, modRevision: number): void {
    this.#witness = { key, modRevision };
  }

  forgetWitness(): void {
    this.#witness = undefined;
  }

  /** Looks at the remembered key again: `unknown` when the store cannot or must not tell. */
  async verify(
    range: (request: { key: string; revision?: number }) => Promise<RangeResponse>,
  ): Promise<'same' | 'other' | 'unknown'> {
    const witness = this.#witness;
    if (witness === undefined) return 'same';
    const { key, modRevision } = witness;
    const holds = ({ kvs }: RangeResponse): boolean => kvs[0]?.modRevision === modRevision;
    try {
      return holds(await range({ key, revision: modRevision })) ? 'same' : 'other';
    } catch (error) {
      if (/future revision/.test(messageOf(error))) return 'other';
      if (error instanceof MeshError && error.code === 'KVS-AUTH') return 'unknown';
      if (!/compacted/.test(messageOf(error))) throw error;
    }
    return holds(await range({ key })) ? 'same' : 'unknown';
  }
}
