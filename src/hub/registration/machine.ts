import { messageOf } from '../../core/errors.ts';
import { type Address, formatAddress } from '../../core/ip.ts';
import type { LabelSet } from '../../core/labels.ts';
import { BadValue } from '../../kvstore/codec/json.ts';
import type { Node, NodeAddress } from '../../kvstore/codec/node.ts';
import { decodeRegisterNode } from '../../kvstore/codec/register-node.ts';
import { NO_REPORT, readReport, type ServingReport } from '../../kvstore/codec/serving-report.ts';
import { Diary } from './diary.ts';
import type { MachineRecord, Unreachable } from './machine-record.ts';
import type { RefusedAddress } from './review.ts';

/** What lies in a registration key. */
export interface Registration {
  readonly revision: number;
  /** Hexadecimal; undefined without one. */
  readonly session: string | undefined;
  /** Undefined when it cannot be read: `problem` says why. */
  readonly node: Node | undefined;
  readonly problem: string | undefined;
  /** The value, where it may be an answer of ours. */
  readonly text: string | undefined;
}

/** What the leader knows of one machine. */
export interface Machine {
  registration: Registration | undefined;
  /** Of the object that the rest is about. */
  uid: string | undefined;
  identity: { readonly number: number; readonly labels: LabelSet; readonly text: string } | undefined;
  /** What is published of it, from the last value that had addresses. */
  accepted: readonly NodeAddress[];
  health: readonly Address[];
  refused: readonly RefusedAddress[];
  claims: readonly string[];
  /** Why nothing can be done with what it wrote. */
  problem: string | undefined;
  /** The answer that it was given last. */
  told: string | undefined;
  /** It lost its rights, and has not registered since. */
  revoked: boolean;
  /** When its facts are withdrawn, monotonic milliseconds. */
  expires: number | undefined;
  lastSeen: number | undefined;
  /** Of the last value that had addresses: an announcement in between says nothing. */
  report: ServingReport;
  /** Since when it does not renew its lease as it promised. */
  silent: number | undefined;
  /** No hub has a connection of it, for longer than it may. */
  unreachable: Unreachable | undefined;
  record: MachineRecord | undefined;
  readonly diary: Diary;
}

export function newMachine(record?: MachineRecord): Machine {
  return {
    registration: undefined,
    uid: record?.uid,
    identity: undefined,
    accepted: [],
    health: [],
    refused: [],
    claims: [],
    problem: undefined,
    told: undefined,
    revoked: record?.state === 'revoked',
    expires: undefined,
    lastSeen: record?.lastSeen,
    report: { ...NO_REPORT, ...(record && { drained: record.serving.drained, checks: record.serving.checks }) },
    silent: record?.serving.silent,
    unreachable: record?.serving.unreachable,
    record,
    diary: new Diary(),
  };
}

/** Of a registration: it is kept, and there are thousands. */
const MAX_BYTES = 65_536;

export interface RegisteredAt {
  readonly revision: number;
  /** Zero for none. */
  readonly lease: bigint;
}

/** Never throws. `value` is not kept. */
export function readRegistration(name: string, value: Buffer, { revision, lease }: RegisteredAt): Registration {
  const session = lease === 0n ? undefined : BigInt.asUintN(64, lease).toString(16);
  try {
    if (value.length > MAX_BYTES) throw new BadValue(`a value of ${value.length} bytes is too long`);
    const node = decodeRegisterNode(name, value);
    const answer = node.nodeIdentity !== 0 && node.addresses.length === 0;
    return { revision, session, node, problem: undefined, text: answer ? value.toString('utf8') : undefined };
  } catch (error) {
    return { revision, session, node: undefined, problem: messageOf(error).slice(0, 200), text: undefined };
  }
}

/** Takes what a machine reports of its serving, but of services that do not select it nothing. */
export function takeReport(machine: Machine, selecting: ReadonlySet<string>): void {
  const { node } = machine.registration ?? {};
  if (node === undefined || node.nodeIdentity === 0 || node.addresses.length === 0) return;
  const { checks, ...report } = readReport(node.annotations, Date.now());
  machine.report = { ...report, checks: new Map([...checks].filter(([service]) => selecting.has(service))) };
}

/** The first address of each family that is the machine's own, and no router's. */
export function backendAddresses({ accepted }: Machine): string[] {
  return ([4, 6] as const).flatMap((family) => {
    const own = accepted.find(({ type, address }) => type !== 'CiliumInternalIP' && address.family === family);
    return own === undefined ? [] : [formatAddress(own.address)];
  });
}

export function addressTexts({ accepted }: Machine): string[] {
  return accepted.map(({ address }) => formatAddress(address));
}

/** What a machine tells of itself besides: bounded, and nothing depends on it. */
export function annotation(machine: Machine, key: string): string | undefined {
  const found = machine.registration?.node?.annotations?.get(key);
  return found !== undefined && /^[\x21-\x7e]{1,64}$/.test(found) ? found : undefined;
}
