import { API_VERSION } from '../../api/types.ts';
import type { MachineService, ServiceFinding } from '../../kvstore/codec/machine-service.ts';
import type { ServiceBackend, ServiceBackendState } from './backends.ts';
import type { ServiceChange } from './services.ts';

/** One service on machines, as `hub service get` shows it in JSON and YAML. Times are milliseconds since the epoch. */
export interface HubServiceRecord {
  readonly apiVersion: string;
  readonly kind: 'HubService';
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  readonly ports: MachineService['ports'];
  readonly selector: Readonly<Record<string, string>>;
  readonly global: boolean;
  readonly shared: boolean;
  readonly affinity: MachineService['affinity'];
  /** Frontends on the machines of the hub. */
  readonly addresses: readonly string[];
  readonly checks: MachineService['checks'];
  readonly timing: MachineService['timing'];
  readonly created: number;
  readonly changed: number;
  readonly backends: readonly HubBackendRecord[];
}

export interface HubBackendRecord {
  readonly workload: string;
  /** Null when it has none that is known. */
  readonly address: string | null;
  readonly state: ServiceBackendState;
  readonly since: number | null;
  readonly reason: string | null;
}

/** `POST /v1/services` */
export interface HubServiceChanged {
  readonly apiVersion: typeof API_VERSION;
  readonly kind: 'HubServiceChanged';
  readonly change: ServiceChange;
  readonly service: HubServiceRecord;
}

/** The same, when it was refused: everything that is wrong. */
export interface HubServiceRefused {
  readonly apiVersion: typeof API_VERSION;
  readonly kind: 'HubServiceValidation';
  readonly ok: false;
  readonly items: readonly ServiceFinding[];
}

/** Of the part `services` in `hub status`. */
export interface ServicesFacts {
  readonly services: number;
  /** Of all services: a machine counts for each, and for each address. */
  readonly backends: number;
  readonly active: number;
  /** Objects that cannot be read, each with the reason; ten at most. */
  readonly unreadable: Readonly<Record<string, string>>;
}

export function serviceRecord(service: MachineService, backends: readonly ServiceBackend[]): HubServiceRecord {
  const { namespace, name, uid, ports, selector, global, shared, affinity, addresses, checks, timing } = service;
  return {
    apiVersion: API_VERSION,
    kind: 'HubService',
    namespace,
    name,
    uid,
    ports,
    selector: Object.fromEntries(selector),
    global,
    shared,
    affinity,
    addresses,
    checks,
    timing,
    created: service.created,
    changed: service.changed,
    backends: backends.map(({ workload, address, state, since, reason }) => ({
      workload,
      address: address ?? null,
      state,
      since: since ?? null,
      reason: reason ?? null,
    })),
  };
}
