import { decodeEvent, decodeHeader, type ResponseHeader, required, type WatchEvent } from './messages.ts';
import { WireReader } from './wire.ts';

/** What a watch response says beside its events (etcd 3.4, `WatchResponse` in api/etcdserverpb/rpc.proto). */
export interface WatchHead {
  readonly header: ResponseHeader;
  readonly watchId: number;
  readonly created: boolean;
  readonly canceled: boolean;
  readonly compactRevision: number;
  readonly cancelReason: string;
  /** More events of the same revision follow in another message. */
  readonly fragment: boolean;
}

const EVENTS = 11;
/** A look at so many fields takes less than a millisecond. */
const STEP_FIELDS = 4096;

/**
 * A watch response, step by step: a message has as many events as a store likes to put into it. All that it says beside
 * them is known before the first of them. What is malformed throws RangeError, at the latest where it is come upon.
 */
export function* readWatchHead(data: Buffer): Generator<void, WatchHead> {
  const reader = new WireReader(data);
  let header: ResponseHeader | undefined;
  const head = { watchId: 0, created: false, canceled: false, compactRevision: 0, cancelReason: '', fragment: false };
  for (let fields = 1; reader.next(); fields++) {
    if (reader.field === 1) header = decodeHeader(reader);
    else if (reader.field === 2) head.watchId = reader.number();
    else if (reader.field === 3) head.created = reader.bool();
    else if (reader.field === 4) head.canceled = reader.bool();
    else if (reader.field === 5) head.compactRevision = reader.number();
    else if (reader.field === 6) head.cancelReason = reader.string();
    else if (reader.field === 7) head.fragment = reader.bool();
    else reader.skip();
    if (fields % STEP_FIELDS === 0) yield;
  }
  return { header: required(header), ...head };
}

/** The events of the same message; `prefix` is cut off their keys. */
export function* readWatchEvents(data: Buffer, prefix: Buffer): Generator<WatchEvent> {
  const reader = new WireReader(data);
  while (reader.next()) {
    if (reader.field === EVENTS) yield decodeEvent(reader, prefix);
    else reader.skip();
  }
}
