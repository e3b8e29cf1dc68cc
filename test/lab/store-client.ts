import { setTimeout as delay } from 'node:timers/promises';
import type { EtcdOptions } from '../../src/kvstore/etcd-config.ts';
import {
  decodeLease,
  decodeRange,
  decodeShort,
  encodeDelete,
  encodeLeaseGrant,
  encodeLeaseId,
  encodePut,
  encodeRange,
  prefixEnd,
  type WireKeyValue,
} from '../../src/kvstore/messages.ts';
import { DEFAULT_TIMING, Transport } from '../../src/kvstore/transport.ts';
import { WireWriter } from '../../src/kvstore/wire.ts';

/** How long a request waits for a store that is away, milliseconds. */
const PATIENCE_MS = 20_000;

/**
 * A writer to an etcd, for the parts of a lab that play a cluster: explicit leases, transactions and prefixes. A broken
 * connection is made anew and the request tried again.
 */
export class StoreClient {
  readonly #etcd: EtcdOptions;
  #transport: Promise<Transport> | undefined;
  readonly #end = new AbortController();

  constructor(etcd: EtcdOptions) {
    this.#etcd = etcd;
  }

  async put(key: string, value: string | Buffer, lease = 0n): Promise<void> {
    await this.request('KV/Put', encodePut(key, Buffer.from(value), lease), decodeShort);
  }

  /** Many keys in one transaction; etcd takes 128 operations at most. */
  async putAll(entries: readonly (readonly [key: string, value: string | Buffer])[], lease = 0n): Promise<void> {
    await this.request('KV/Txn', encodePuts(entries, lease), () => true);
  }

  async get(key: string): Promise<string | undefined> {
    const { kvs } = await this.request('KV/Range', encodeRange({ key }), decodeRange);
    return kvs[0]?.value.toString('utf8');
  }

  /** Everything under a prefix, by whole key; for a few thousand keys. */
  async list(prefix: string): Promise<readonly WireKeyValue[]> {
    const request = encodeRange({ key: prefix, rangeEnd: prefixEnd(prefix) });
    return (await this.request('KV/Range', request, decodeRange)).kvs;
  }

  async remove(key: string): Promise<void> {
    await this.request('KV/DeleteRange', encodeDelete(key), decodeShort);
  }

  async removePrefix(prefix: string): Promise<void> {
    const request = new WireWriter().bytes(1, prefix).bytes(2, prefixEnd(prefix)).finish();
    await this.request('KV/DeleteRange', request, decodeShort);
  }

  async grant(ttlSeconds: number): Promise<bigint> {
    return (await this.request('Lease/LeaseGrant', encodeLeaseGrant(ttlSeconds), decodeLease)).id;
  }

  /** Ends a lease now, as if it had run out: its keys vanish. */
  async revoke(lease: bigint): Promise<void> {
    await this.request('Lease/LeaseRevoke', encodeLeaseId(lease), () => true);
  }

  /** Prolongs a lease once; false when the store does not know it (any more). */
  async keepAlive(lease: bigint): Promise<boolean> {
    const stream = (await this.#connect()).stream('Lease/LeaseKeepAlive');
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise((resolve, reject) => {
        timer = setTimeout(() => reject(new Error('the store does not answer')), 5000);
        stream.on('data', (data: Buffer) => resolve(decodeLease(data).ttl > 0));
        stream.on('error', reject);
        stream.write(encodeLeaseId(lease));
      });
    } finally {
      clearTimeout(timer);
      stream.on('error', () => {});
      stream.cancel();
    }
  }

  async request<Answer>(method: string, message: Buffer, decode: (data: Buffer) => Answer): Promise<Answer> {
    const deadline = Date.now() + PATIENCE_MS;
    for (;;) {
      try {
        return await (await this.#connect()).request(method, message, decode);
      } catch (error) {
        if (this.#end.signal.aborted || Date.now() > deadline || /permission denied|not found/.test(String(error)))
          throw error;
        await this.#disconnect();
        await delay(100);
      }
    }
  }

  async close(): Promise<void> {
    this.#end.abort();
    await this.#disconnect();
  }

  #connect(): Promise<Transport> {
    this.#transport ??= Transport.connect(this.#etcd.endpoints[0] ?? '', this.#etcd, DEFAULT_TIMING, this.#end.signal);
    return this.#transport;
  }

  async #disconnect(): Promise<void> {
    const transport = this.#transport;
    this.#transport = undefined;
    await transport?.then(
      (found) => found.close(),
      () => {},
    );
  }
}

/** A transaction without conditions: TxnRequest{success: [RequestOp{request_put}]}. */
export function encodePuts(entries: readonly (readonly [key: string, value: string | Buffer])[], lease = 0n): Buffer {
  const transaction = new WireWriter();
  for (const [key, value] of entries)
    transaction.message(2, new WireWriter().bytes(2, encodePut(key, Buffer.from(value), lease)));
  return transaction.finish();
}
