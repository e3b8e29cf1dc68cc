import { randomUUID } from 'node:crypto';
import { MeshError } from '../../core/errors.ts';
import { encodeMachineService, type MachineService, type ServiceFinding } from '../../kvstore/codec/machine-service.ts';
import { MACHINE_SERVICES_PREFIX } from '../../kvstore/paths.ts';
import type { Operation } from '../../kvstore/transaction.ts';
import type { HubStore } from '../hub-store.ts';
import { FRONTENDS_PREFIX, type Frontends } from './frontends.ts';
import { type ReadService, readService, type ServiceRequest } from './service-request.ts';
import { type KnownService, keyOf, type ServiceTable } from './service-table.ts';

export interface ServicesOptions {
  readonly store: Pick<HubStore, 'transact' | 'read'>;
  readonly table: ServiceTable;
  readonly frontends: Frontends;
}

export type ServiceChange = 'created' | 'changed' | 'unchanged';

/** What was done, or everything that is wrong with what was asked for. */
export type ServiceOutcome =
  | { readonly change: ServiceChange; readonly key: string }
  | { readonly findings: readonly ServiceFinding[] };

const ATTEMPTS = 16;
/** Every machine reads all of them. */
const MAX_SERVICES = 1000;

/**
 * What an administrator does with services on machines. Several hubs may do it at once: each change is one transaction with
 * what it was based on as its condition, and is thought over again when that is not true any more.
 */
export class Services {
  readonly #options: ServicesOptions;

  constructor(options: ServicesOptions) {
    this.#options = options;
  }

  /** @throws MeshError HUB-SERVICE-EXISTS, HUB-SERVICE-ADDRESS, HUB-SERVICE, HUB-CONFLICT, KVS-* */
  async put(request: ServiceRequest): Promise<ServiceOutcome> {
    const { table } = this.#options;
    const read = readService(request);
    if (read.findings.length > 0) return { findings: read.findings };
    const key = keyOf(read.spec);
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const present = table.get(key);
      // One that cannot be read is there all the same.
      const unreadable = table.unreadable.has(key);
      if ((present !== undefined || unreadable) && !request.replace) throw new MeshError('HUB-SERVICE-EXISTS', key);
      if (present === undefined && table.size >= MAX_SERVICES)
        throw new MeshError('HUB-SERVICE', `there are ${table.size} services, and ${MAX_SERVICES} is the most`);
      const wanted = await this.#wanted(read, present);
      if ('findings' in wanted) return wanted;
      if (present !== undefined && sameService(present, wanted)) return { change: 'unchanged', key };
      const revision = unreadable ? await this.#revisionOf(key) : (present?.revision ?? 0);
      if (await this.#write(wanted, { revision, before: present?.addresses ?? [] }))
        return { change: revision === 0 ? 'created' : 'changed', key };
    }
    throw new MeshError('HUB-CONFLICT', `service ${key} could not be written`);
  }

  /** @throws MeshError HUB-SERVICE-MISSING, HUB-CONFLICT, KVS-* */
  async delete(key: string): Promise<void> {
    const { store, table } = this.#options;
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const present = table.get(key);
      const object = MACHINE_SERVICES_PREFIX + key;
      // One that cannot be read can be deleted nevertheless.
      if (present === undefined && !table.unreadable.has(key)) throw new MeshError('HUB-SERVICE-MISSING', shown(key));
      const result = await store.transact({
        when: present === undefined ? [] : [{ key: object, modRevision: present.revision }],
        perform: [
          { remove: object },
          ...(present?.addresses ?? []).map((address): Operation => ({ remove: FRONTENDS_PREFIX + address })),
        ],
        otherwise: [{ get: object }],
      });
      if (result.succeeded) return table.left(key, present?.revision);
      const [found] = result.answers[0]?.found ?? [];
      if (found === undefined) throw new MeshError('HUB-SERVICE-MISSING', shown(key));
      await table.reached(found.modRevision);
    }
    throw new MeshError('HUB-CONFLICT', `service ${key} could not be deleted`);
  }

  async #wanted(
    { spec, auto }: ReadService,
    present: KnownService | undefined,
  ): Promise<MachineService | { readonly findings: readonly ServiceFinding[] }> {
    const { frontends } = this.#options;
    const key = keyOf(spec);
    const chosen = auto ? frontends.choose(key, spec.addresses) : { addresses: spec.addresses, full: [] };
    const findings: ServiceFinding[] = chosen.full.map((family) => ({
      field: 'addresses',
      message: `no ${family} address is free in services.pools`,
    }));
    if (auto && !frontends.hasPools)
      findings.push({ field: 'addresses', message: 'auto: the hub has no services.pools in hub.yaml' });
    for (const address of chosen.addresses) {
      if (present?.addresses.includes(address) === true) continue;
      const objection = await frontends.objection(address, key);
      if (objection !== undefined) findings.push({ field: 'addresses', message: `${address}: ${objection}` });
    }
    if (findings.length > 0) return { findings };
    const now = Date.now();
    const { uid = randomUUID(), created = now } = present ?? {};
    return { ...spec, addresses: chosen.addresses, uid, created, changed: now };
  }

  async #revisionOf(key: string): Promise<number> {
    return (await this.#options.store.read(MACHINE_SERVICES_PREFIX + key))?.modRevision ?? 0;
  }

  /** False when it has to be thought over again. `revision`: of the object that is there, 0 for none. */
  async #write(
    wanted: MachineService,
    { revision, before }: { readonly revision: number; readonly before: readonly string[] },
  ): Promise<boolean> {
    const { store, table } = this.#options;
    const key = keyOf(wanted);
    const object = MACHINE_SERVICES_PREFIX + key;
    const gained = wanted.addresses.filter((address) => !before.includes(address));
    const given = before.filter((address) => !wanted.addresses.includes(address));
    const result = await store.transact({
      when: [
        { key: object, modRevision: revision },
        ...gained.map((address) => ({ key: FRONTENDS_PREFIX + address, createRevision: 0 })),
      ],
      perform: [
        { put: object, value: encodeMachineService(wanted) },
        ...given.map((address): Operation => ({ remove: FRONTENDS_PREFIX + address })),
        ...gained.map((address): Operation => ({ put: FRONTENDS_PREFIX + address, value: key })),
      ],
      otherwise: [{ get: object }, ...gained.map((address) => ({ get: FRONTENDS_PREFIX + address }))],
    });
    if (result.succeeded) {
      await table.reached(result.revision);
      return true;
    }
    const [found, ...owners] = result.answers.map(({ found }) => found[0]);
    if (found !== undefined) await table.reached(found.modRevision);
    for (const owner of owners) if (owner !== undefined) await this.#ownedBy(owner.value.toString(), owner.modRevision);
    return false;
  }

  /** An address and the service that has it are written at once: what the table does not know then is a leftover. */
  async #ownedBy(key: string, revision: number): Promise<void> {
    const { table } = this.#options;
    await table.reached(revision);
    if (table.get(key) === undefined) throw new MeshError('HUB-SERVICE-ADDRESS', `service ${shown(key)} has it`);
  }
}

function sameService(a: MachineService, b: MachineService): boolean {
  const text = (service: MachineService): string =>
    encodeMachineService({ ...pick(service), uid: '', created: 0, changed: 0 });
  return text(a) === text(b);
}

/** Without what the table adds to it, and in one order. */
function pick(service: MachineService): MachineService {
  const { uid, namespace, name, ports, selector, global, shared, affinity, addresses, checks, timing } = service;
  const sorted = new Map([...selector].sort(([x], [y]) => (x < y ? -1 : 1)));
  const { created, changed } = service;
  return {
    uid,
    namespace,
    name,
    ports,
    selector: sorted,
    global,
    shared,
    affinity,
    addresses,
    checks,
    timing,
    created,
    changed,
  };
}

function shown(key: string): string {
  return JSON.stringify(key.slice(0, 130));
}
