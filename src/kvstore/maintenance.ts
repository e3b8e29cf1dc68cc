import { MeshError } from '../core/errors.ts';
import type { EtcdOptions } from './etcd-config.ts';
import { decodeShort, type ResponseHeader } from './messages.ts';
import { classify, DEFAULT_TIMING, Transport, type TransportTiming } from './transport.ts';
import { WireReader, WireWriter } from './wire.ts';

/** What a member says of itself. */
export interface MemberStatus {
  readonly endpoint: string;
  readonly version: string;
  /** Hexadecimal. */
  readonly clusterId: string;
  readonly memberId: string;
  readonly leaderId: string;
  readonly revision: number;
  /** Bytes of the file, and of what is used in it. */
  readonly size: number;
  readonly sizeInUse: number;
}

export type AlarmKind = 'no-space' | 'corrupt';

export interface Alarm {
  readonly memberId: string;
  readonly kind: AlarmKind;
}

/** A member stands still while it is defragmented: about a second for 100 MB. */
const DEFRAGMENT_MS = 300_000;
const KINDS: Readonly<Record<number, AlarmKind>> = { 1: 'no-space', 2: 'corrupt' };

/**
 * One member of an etcd, reached directly: Maintenance of etcd 3.4, api/etcdserverpb/rpc.proto.
 * @throws MeshError KVS-*
 */
export class Member {
  readonly #transport: Transport;

  private constructor(transport: Transport) {
    this.#transport = transport;
  }

  static async connect(
    endpoint: string,
    options: EtcdOptions,
    signal: AbortSignal,
    timing: Partial<TransportTiming> = {},
  ): Promise<Member> {
    const limits = { ...DEFAULT_TIMING, requestMs: DEFRAGMENT_MS, ...timing };
    return new Member(await Transport.connect(endpoint, options, limits, signal));
  }

  close(): void {
    this.#transport.close();
  }

  async status(): Promise<MemberStatus> {
    const decode = (data: Buffer): Omit<MemberStatus, 'endpoint'> => decodeStatus(data);
    return {
      endpoint: this.#transport.endpoint,
      ...(await this.#transport.request('Maintenance/Status', Buffer.alloc(0), decode)),
    };
  }

  alarms(): Promise<readonly Alarm[]> {
    return this.#transport.request('Maintenance/Alarm', Buffer.alloc(0), decodeAlarms);
  }

  async disarm({ memberId, kind }: Alarm): Promise<void> {
    const message = new WireWriter()
      .uint(1, 2)
      .uint(2, BigInt(`0x${memberId}`))
      .uint(3, kind === 'no-space' ? 1 : 2);
    await this.#transport.request('Maintenance/Alarm', message.finish(), () => undefined);
  }

  /** Gives up history before this revision, and waits until it is gone. */
  async compact(revision: number): Promise<void> {
    await this.#transport.request('KV/Compact', new WireWriter().uint(1, revision).bool(2, true).finish(), decodeShort);
  }

  async defragment(): Promise<void> {
    await this.#transport.request('Maintenance/Defragment', Buffer.alloc(0), () => undefined);
  }

  /**
   * Everything that the member holds, as `etcdctl snapshot save` writes it: the database and behind it 32 bytes of SHA-256.
   * @throws MeshError KVS-* also when it breaks off
   */
  async *snapshot(): AsyncGenerator<Buffer> {
    const stream = this.#transport.stream('Maintenance/Snapshot');
    stream.end(Buffer.alloc(0));
    let remaining = 1;
    try {
      for await (const data of stream as AsyncIterable<Buffer>) {
        const part = decodeSnapshot(data);
        remaining = part.remaining;
        yield part.blob;
      }
    } catch (error) {
      throw classify(error, this.#transport.endpoint);
    }
    if (remaining !== 0) throw new MeshError('KVS-LOST', 'the snapshot broke off', { place: this.#transport.endpoint });
  }
}

function decodeStatus(data: Buffer): Omit<MemberStatus, 'endpoint'> {
  const reader = new WireReader(data);
  let header: (ResponseHeader & { memberId: string }) | undefined;
  const status = { version: '', size: 0, leaderId: '0', sizeInUse: 0 };
  while (reader.next()) {
    if (reader.field === 1) header = decodeMemberHeader(reader);
    else if (reader.field === 2) status.version = reader.string();
    else if (reader.field === 3) status.size = reader.number();
    else if (reader.field === 4) status.leaderId = reader.bigint().toString(16);
    else if (reader.field === 9) status.sizeInUse = reader.number();
    else reader.skip();
  }
  if (header === undefined) throw new RangeError('response without a header');
  return { ...status, ...header };
}

function decodeMemberHeader(reader: WireReader): ResponseHeader & { memberId: string } {
  const header = { clusterId: '0', memberId: '0', revision: 0 };
  const outer = reader.enter();
  while (reader.next()) {
    if (reader.field === 1) header.clusterId = reader.bigint().toString(16);
    else if (reader.field === 2) header.memberId = reader.bigint().toString(16);
    else if (reader.field === 3) header.revision = reader.number();
    else reader.skip();
  }
  reader.leave(outer);
  return header;
}

function decodeAlarms(data: Buffer): readonly Alarm[] {
  const alarms: Alarm[] = [];
  const reader = new WireReader(data);
  while (reader.next()) {
    if (reader.field !== 2) {
      reader.skip();
      continue;
    }
    const alarm = { memberId: '0', kind: 0 };
    readAlarm(reader, alarm);
    const kind = KINDS[alarm.kind];
    if (kind !== undefined) alarms.push({ memberId: alarm.memberId, kind });
  }
  return alarms;
}

function readAlarm(reader: WireReader, alarm: { memberId: string; kind: number }): void {
  const outer = reader.enter();
  while (reader.next()) {
    if (reader.field === 1) alarm.memberId = reader.bigint().toString(16);
    else if (reader.field === 2) alarm.kind = reader.number();
    else reader.skip();
  }
  reader.leave(outer);
}

function decodeSnapshot(data: Buffer): { remaining: number; blob: Buffer } {
  const reader = new WireReader(data);
  let remaining = 0;
  let blob: Buffer = Buffer.alloc(0);
  while (reader.next()) {
    if (reader.field === 2) remaining = reader.number();
    else if (reader.field === 3) blob = Buffer.from(reader.bytes());
    else reader.skip();
  }
  return { remaining, blob };
}
