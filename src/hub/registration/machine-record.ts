import { BadValue, fieldsOf, list, parseObject, text, uint } from '../../kvstore/codec/json.ts';
import { type CheckReports, checksFromJson, checksToJson } from '../../kvstore/codec/serving-report.ts';
import type { RefusedAddress } from './review.ts';

/**
 * What the leader knows of one machine, for all hubs to show: one key for each, written when it changes. No lease: it tells
 * also of machines that are gone.
 */
export interface MachineRecord {
  /** Of the workload it is about. */
  readonly uid: string;
  readonly state: MachineState;
  /** Milliseconds since the epoch. */
  readonly since: number;
  /** Of the last value that the machine wrote, to ten minutes or so. */
  readonly lastSeen: number | undefined;
  readonly identity: number | undefined;
  /** The lease that it last registered under, hexadecimal. */
  readonly session: string | undefined;
  /** Published ones. */
  readonly addresses: readonly string[];
  readonly refused: readonly RefusedAddress[];
  readonly claims: readonly string[];
  /** Why it is not registered, or what is wrong although it is. */
  readonly reason: string | undefined;
  readonly agentVersion: string | undefined;
  readonly policyRevision: string | undefined;
  readonly serving: MachineServing;
}

/** What matters to the services that select the machine. */
export interface MachineServing {
  /** Canonical, the first of each family: where it is a backend. */
  readonly addresses: readonly string[];
  /** Since when it wants no new connections. */
  readonly drained: number | undefined;
  /** Of services that select it. */
  readonly checks: CheckReports;
  /** Since when it does not renew its lease as it promised. */
  readonly silent: number | undefined;
  /** No hub has a connection of it, for longer than it may. */
  readonly unreachable: Unreachable | undefined;
}

export interface Unreachable {
  /** Milliseconds since the epoch. */
  readonly since: number;
  /** Services in which it is kept although: too many of their machines were missing at once. */
  readonly kept: readonly string[];
}

export const SERVES_NOTHING: MachineServing = {
  addresses: [],
  drained: undefined,
  checks: new Map(),
  silent: undefined,
  unreachable: undefined,
};

/** `waiting`: answered, or not, but nothing of it is published. */
export type MachineState = 'waiting' | 'registered' | 'expired' | 'revoked';

export const REGISTRATIONS_PREFIX = 'mesh-agent/v1/registrations/';
const STATES: readonly string[] = ['waiting', 'registered', 'expired', 'revoked'];

export function encodeMachineRecord(record: MachineRecord): string {
  const { checks, ...serving } = record.serving;
  return JSON.stringify({ ...record, serving: { ...serving, checks: checksToJson(checks) } });
}

/** @throws BadValue */
export function decodeMachineRecord(value: Buffer): MachineRecord {
  const fields = parseObject(value);
  const state = text(fields, 'state');
  if (!STATES.includes(state)) throw new BadValue('state is none');
  const number = (name: string): number => uint(fields, name, Number.MAX_SAFE_INTEGER);
  return {
    uid: text(fields, 'uid'),
    state: state as MachineState,
    since: number('since'),
    lastSeen: number('lastSeen') || undefined,
    identity: number('identity') || undefined,
    session: text(fields, 'session') || undefined,
    addresses: strings(list(fields, 'addresses')),
    refused: list(fields, 'refused').map((item) => {
      const refused = fieldsOf(item, 'refused');
      return { address: text(refused, 'address'), type: text(refused, 'type'), reason: text(refused, 'reason') };
    }),
    claims: strings(list(fields, 'claims')),
    reason: text(fields, 'reason') || undefined,
    agentVersion: text(fields, 'agentVersion') || undefined,
    policyRevision: text(fields, 'policyRevision') || undefined,
    serving: servingOf(fields.get('serving')),
  };
}

/** Records of earlier versions have none. */
function servingOf(value: unknown): MachineServing {
  if (value === undefined || value === null) return SERVES_NOTHING;
  const fields = fieldsOf(value, 'serving');
  return {
    addresses: strings(list(fields, 'addresses')),
    drained: uint(fields, 'drained', Number.MAX_SAFE_INTEGER) || undefined,
    checks: checksFromJson(fields.get('checks'), Number.MAX_SAFE_INTEGER),
    silent: uint(fields, 'silent', Number.MAX_SAFE_INTEGER) || undefined,
    unreachable: unreachableOf(fields.get('unreachable')),
  };
}

function unreachableOf(value: unknown): Unreachable | undefined {
  if (value === undefined || value === null) return undefined;
  const fields = fieldsOf(value, 'unreachable');
  return { since: uint(fields, 'since', Number.MAX_SAFE_INTEGER), kept: strings(list(fields, 'kept')) };
}

function strings(items: readonly unknown[]): string[] {
  return items.filter((item) => typeof item === 'string');
}
