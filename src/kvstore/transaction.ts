import { encodeDelete, encodePut, prefixEnd, type ResponseHeader } from './messages.ts';
import type { KeyValue } from './store.ts';
import { WireReader, WireWriter } from './wire.ts';

/** A key as a writer must know it. */
export interface StoredKeyValue extends KeyValue {
  /** The revision at which the key came into being: it changes when a key is removed and made again. */
  readonly createRevision: number;
  /** How often it was written since then; 1 for a new key. */
  readonly version: number;
}

/** What must hold of a key. A key that does not exist has revision, version and lease 0 and no value. */
export type Condition = { readonly key: string; readonly is?: Comparison } & (
  | { readonly createRevision: number }
  | { readonly modRevision: number }
  | { readonly version: number }
  | { readonly value: string | Buffer }
  /** Hexadecimal, as in `KeyValue`. */
  | { readonly lease: string }
);

/** `equal` unless said otherwise. */
export type Comparison = 'equal' | 'greater' | 'less' | 'not-equal';

export type Operation =
  /** Without a lease the key stays until it is removed. */
  | { readonly put: string; readonly value: string | Buffer; readonly lease?: string }
  | { readonly remove: string }
  | { readonly removePrefix: string }
  | { readonly get: string }
  /** Everything under a prefix, by whole keys. For prefixes that fit into one answer. */
  | { readonly list: string }
  /** Within the other one, at the same revision. */
  | { readonly transaction: Transaction };

/** All of `when` holds: `perform` is done, else `otherwise`; at one revision, or not at all. etcd takes 128 of each. */
export interface Transaction {
  readonly when?: readonly Condition[];
  readonly perform?: readonly Operation[];
  readonly otherwise?: readonly Operation[];
}

export interface TransactionResult {
  /** Whether the conditions held. */
  readonly succeeded: boolean;
  /** Of the store after it. */
  readonly revision: number;
  /** One for each operation that was done. */
  readonly answers: readonly OperationAnswer[];
}

export interface OperationAnswer {
  /** What a `get` or `list` found. */
  readonly found: readonly StoredKeyValue[];
  /** How many keys were removed. */
  readonly removed: number;
  /** Of a transaction within. */
  readonly result?: Omit<TransactionResult, 'revision'>;
}

export const MAX_OPERATIONS = 128;

const TARGETS = { version: 0, createRevision: 1, modRevision: 2, value: 3, lease: 4 } as const;
const RESULTS: Record<Comparison, number> = { equal: 0, greater: 1, less: 2, 'not-equal': 3 };

/** TxnRequest of etcd 3.4, api/etcdserverpb/rpc.proto. */
export function encodeTransaction(transaction: Transaction): Buffer {
  const writer = new WireWriter();
  for (const condition of transaction.when ?? []) writer.message(1, compare(condition));
  for (const operation of transaction.perform ?? []) writer.message(2, encodeOperation(operation));
  for (const operation of transaction.otherwise ?? []) writer.message(3, encodeOperation(operation));
  return writer.finish();
}

/** A part of a oneof is written even when it is zero or empty: presence says which one is meant. */
function compare(condition: Condition): WireWriter {
  const writer = new WireWriter().uint(1, RESULTS[condition.is ?? 'equal']);
  if ('version' in condition)
    return writer.uint(2, TARGETS.version).bytes(3, condition.key).present(4, condition.version);
  if ('createRevision' in condition)
    return writer.uint(2, TARGETS.createRevision).bytes(3, condition.key).present(5, condition.createRevision);
  if ('modRevision' in condition)
    return writer.uint(2, TARGETS.modRevision).bytes(3, condition.key).present(6, condition.modRevision);
  if ('lease' in condition)
    return writer.uint(2, TARGETS.lease).bytes(3, condition.key).present(8, leaseNumber(condition.lease));
  return writer.uint(2, TARGETS.value).bytes(3, condition.key).presentBytes(7, condition.value);
}

function encodeOperation(operation: Operation): WireWriter {
  const request = new WireWriter();
  if ('put' in operation) {
    const put = encodePut(operation.put, Buffer.from(operation.value), leaseNumber(operation.lease ?? '0'));
    return request.presentBytes(2, put);
  }
  if ('remove' in operation) return request.presentBytes(3, encodeDelete(operation.remove));
  if ('removePrefix' in operation) {
    const prefix = operation.removePrefix;
    return request.message(3, new WireWriter().bytes(1, prefix).bytes(2, prefixEnd(prefix)));
  }
  if ('transaction' in operation) return request.presentBytes(4, encodeTransaction(operation.transaction));
  if ('get' in operation) return request.message(1, new WireWriter().bytes(1, operation.get));
  return request.message(1, new WireWriter().bytes(1, operation.list).bytes(2, prefixEnd(operation.list)));
}

export function leaseNumber(lease: string): bigint {
  return BigInt(`0x${lease}`);
}

export function decodeTransaction(data: Buffer): TransactionResult & { readonly header: ResponseHeader } {
  const { header, succeeded, answers } = decodeResult(new WireReader(data));
  if (header === undefined) throw new RangeError('response without a header');
  return { header, revision: header.revision, succeeded, answers };
}

/** Of the message, or of the sub-message that was entered, up to its end. */
function decodeResult(reader: WireReader): {
  readonly header: ResponseHeader | undefined;
  readonly succeeded: boolean;
  readonly answers: readonly OperationAnswer[];
} {
  let header: ResponseHeader | undefined;
  let succeeded = false;
  const answers: OperationAnswer[] = [];
  while (reader.next()) {
    if (reader.field === 1) header = decodeStoredHeader(reader);
    else if (reader.field === 2) succeeded = reader.bool();
    else if (reader.field === 3) answers.push(decodeAnswer(reader));
    else reader.skip();
  }
  return { header, succeeded, answers };
}

function decodeAnswer(reader: WireReader): OperationAnswer {
  const found: StoredKeyValue[] = [];
  let removed = 0;
  let result: OperationAnswer['result'];
  const outer = reader.enter();
  while (reader.next()) {
    const kind = reader.field;
    const inner = reader.enter();
    if (kind === 4) {
      const { succeeded, answers } = decodeResult(reader);
      result = { succeeded, answers };
    }
    while (reader.next()) {
      if (kind === 1 && reader.field === 2) found.push(decodeStored(reader));
      else if (kind === 3 && reader.field === 2) removed = reader.number();
      else reader.skip();
    }
    reader.leave(inner);
  }
  reader.leave(outer);
  return { found, removed, ...(result !== undefined && { result }) };
}

/** A RangeResponse with everything that etcd knows of each key. */
export function decodeStoredRange(data: Buffer): {
  readonly header: ResponseHeader;
  readonly kvs: readonly StoredKeyValue[];
  readonly more: boolean;
} {
  const reader = new WireReader(data);
  let header: ResponseHeader | undefined;
  const kvs: StoredKeyValue[] = [];
  let more = false;
  while (reader.next()) {
    if (reader.field === 1) header = decodeStoredHeader(reader);
    else if (reader.field === 2) kvs.push(decodeStored(reader));
    else if (reader.field === 3) more = reader.bool();
    else reader.skip();
  }
  if (header === undefined) throw new RangeError('response without a header');
  return { header, kvs, more };
}

function decodeStoredHeader(reader: WireReader): ResponseHeader {
  let clusterId = 0n;
  let revision = 0;
  const outer = reader.enter();
  while (reader.next()) {
    if (reader.field === 1) clusterId = reader.bigint();
    else if (reader.field === 3) revision = reader.number();
    else reader.skip();
  }
  reader.leave(outer);
  return { clusterId: clusterId.toString(16), revision };
}

/** A copy: what is read here is kept. */
function decodeStored(reader: WireReader): StoredKeyValue {
  const kv = { key: '', value: Buffer.alloc(0), createRevision: 0, modRevision: 0, version: 0, lease: '0' };
  const outer = reader.enter();
  while (reader.next()) {
    if (reader.field === 1) kv.key = reader.string();
    else if (reader.field === 2) kv.createRevision = reader.number();
    else if (reader.field === 3) kv.modRevision = reader.number();
    else if (reader.field === 4) kv.version = reader.number();
    else if (reader.field === 5) kv.value = Buffer.from(reader.bytes());
    else if (reader.field === 6) kv.lease = reader.bigint().toString(16);
    else reader.skip();
  }
  reader.leave(outer);
  return kv;
}
