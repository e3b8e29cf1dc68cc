import { MeshError } from '../core/errors.ts';
import { sleep } from '../core/job.ts';
import type { DataSet } from './data-set.ts';
import { decodeRange, encodeRange, type RangeRequest, type RangeResponse, type ResponseHeader } from './messages.ts';
import { isForbidden, isOvertaken, type Transport } from './transport.ts';

export interface ConnectionOptions {
  readonly transport: Transport;
  readonly dataSet: DataSet;
  /** The store shows other data than before. */
  readonly onOtherData: (reason: string) => void;
  /** Called once, when the connection is to end. */
  readonly onFailure: (error: unknown) => void;
}

const MAX_TRIES = 20;
const RETRY_MS = 10;

/** A live connection: every answer is checked for the data set that it comes from. */
export class Connection {
  readonly transport: Transport;
  readonly #options: ConnectionOptions;
  #ended = false;

  constructor(options: ConnectionOptions) {
    this.transport = options.transport;
    this.#options = options;
  }

  /** @throws MeshError KVS-* */
  async request<Answer extends { readonly header: ResponseHeader }>(
    method: string,
    message: Buffer,
    decode: (data: Buffer) => Answer,
  ): Promise<Answer> {
    // What went through the quorum is at least as new as all that was known before. Leases are outside of revisions.
    const least = method.startsWith('KV/') ? this.#options.dataSet.revision : 0;
    const answer = await this.#send(method, message, decode);
    this.#check(answer.header, least);
    return answer;
  }

  /** `prefix` is cut off the keys of the answer. */
  async range(request: RangeRequest, prefix?: Buffer): Promise<RangeResponse> {
    const least = request.revision === undefined ? this.#options.dataSet.revision : 0;
    const answer = await this.#send('KV/Range', encodeRange(request), (data) => decodeRange(data, prefix));
    this.#check(answer.header, least);
    return answer;
  }

  /** Checks the header of an answer in a stream. */
  seen(header: ResponseHeader): void {
    this.#check(header, 0);
  }

  /** A key and its modification revision, by which the data set is known again. */
  remember(key: string, modRevision: number): void {
    this.#options.dataSet.remember(key, modRevision);
  }

  /** Ends this connection; the session makes a new one. */
  fail(error: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#options.onFailure(error);
  }

  async #send<Answer>(method: string, message: Buffer, decode: (data: Buffer) => Answer): Promise<Answer> {
    for (let tries = 1; ; tries++) {
      try {
        return await this.transport.request(method, message, decode);
      } catch (error) {
        // Every change of users or roles makes etcd refuse what it had begun before, undone. In a fleet that is often.
        if (isOvertaken(error) && tries < MAX_TRIES && !this.#ended) {
          await sleep(Math.random() * RETRY_MS * tries);
          continue;
        }
        // A login that is void is made again by connecting again.
        if (error instanceof MeshError && error.code === 'KVS-AUTH' && !isForbidden(error)) this.fail(error);
        throw error;
      }
    }
  }

  #check(header: ResponseHeader, least: number): void {
    // A late answer says nothing about the store of now.
    if (this.#ended) throw new MeshError('KVS-LOST', 'the connection has ended', { place: this.transport.endpoint });
    const reason = this.#options.dataSet.see(header, least);
    if (reason === undefined) return;
    this.#options.onOtherData(reason);
    const error = new MeshError('KVS-LOST', reason, { place: this.transport.endpoint });
    this.fail(error);
    throw error;
  }
}
