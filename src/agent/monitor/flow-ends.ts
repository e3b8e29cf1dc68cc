import { setImmediate as nextTurn } from 'node:timers/promises';
import type { FlowEndRecord } from '../../api/flow-types.ts';
import { RESERVED } from '../../core/identity.ts';
import { type Address, formatAddress } from '../../core/ip.ts';
import { labelTexts } from '../../core/labels.ts';
import { nodeIp } from '../../kvstore/codec/node.ts';
import type { Agent } from '../agent.ts';
import { worldOf } from '../explain/party.ts';
import { serviceKeys } from '../services/service-facts.ts';
import { labelsOf } from '../views/list-views.ts';

/** What is known of an address counts for so long, milliseconds: a flood asks for the same ones again and again. */
const FRESH_MS = 1_000;
/** Indexes of names are made anew at most so often; they may be long. */
const INDEX_MS = 10_000;
const MAX_ENDS = 4_096;
/** Entries of an index: beyond that, names are not worth the memory. */
const MAX_INDEX = 100_000;
/** Names of one address: at a large provider thousands share one. */
const MAX_NAMES = 16;
/** Others get their turn after so many. */
const TURN_ENTRIES = 1_000;

interface Names {
  /** By address: `<cluster>/<node>`, `<namespace>/<name>`, DNS names. */
  readonly nodes: Map<string, string>;
  readonly services: Map<string, string>;
  readonly dns: Map<string, string[]>;
}

/** Who an address is, from present facts. */
export class FlowEnds {
  readonly #agent: Agent;
  readonly #ends = new Map<string, FlowEndRecord>();
  #freshUntil = 0;
  #indexUntil = 0;
  #names: Names = { nodes: new Map(), services: new Map(), dns: new Map() };

  constructor(agent: Agent) {
    this.#agent = agent;
  }

  /** `own`: the end that is this machine, or something inside of it. */
  find(address: Address, own: boolean): FlowEndRecord {
    const now = performance.now();
    if (now > this.#freshUntil || this.#ends.size >= MAX_ENDS) {
      this.#ends.clear();
      this.#freshUntil = now + FRESH_MS;
    }
    const text = formatAddress(address);
    const key = own ? `self ${text}` : text;
    const known = this.#ends.get(key);
    if (known !== undefined) return known;
    this.index();
    const end = own ? this.#self(text) : this.#other(address, text);
    this.#ends.set(key, end);
    return end;
  }

  #self(text: string): FlowEndRecord {
    const { config, registration } = this.#agent;
    const registered = registration?.registered;
    return {
      address: text,
      identity: registered?.identity ?? RESERVED.init,
      labels: registered === undefined ? ['reserved:init'] : labelTexts(registered.labels),
      self: true,
      ...(registered !== undefined && { cluster: registered.cluster.name }),
      node: registered === undefined ? config.name : `${registered.cluster.name}/${config.name}`,
    };
  }

  #other(address: Address, text: string): FlowEndRecord {
    const entry = this.#agent.tables.ipcache.lookup(address);
    const identity = entry?.identity ?? worldOf(this.#agent, address);
    const cluster = this.#agent.tables.identities.get(identity)?.cluster ?? entry?.origin.cluster ?? '';
    const node = this.#names.nodes.get(text);
    const service = this.#names.services.get(text);
    const names = this.#names.dns.get(text);
    return {
      address: text,
      identity,
      labels: labelsOf(this.#agent, identity),
      ...(cluster !== '' && { cluster }),
      ...(node !== undefined && { node }),
      ...(service !== undefined && { service }),
      ...(names !== undefined && { names }),
    };
  }

  /** Begins to look for names anew, if it is time; until it is done the ones from before count. */
  index(): void {
    if (performance.now() < this.#indexUntil) return;
    this.#indexUntil = Number.POSITIVE_INFINITY;
    void this.#index().finally(() => {
      this.#indexUntil = performance.now() + INDEX_MS;
    });
  }

  async #index(): Promise<void> {
    const names: Names = { nodes: new Map(), services: new Map(), dns: new Map() };
    let entries = 0;
    for (const add of this.#entries(names)) {
      add();
      if (++entries > MAX_INDEX) break;
      if (entries % TURN_ENTRIES === 0) await nextTurn();
    }
    this.#names = names;
  }

  *#entries({ nodes, services, dns }: Names): Iterable<() => void> {
    const { tables, names } = this.#agent;
    for (const [key, node] of tables.nodes.entries()) {
      for (const address of [nodeIp(node, 4), nodeIp(node, 6)])
        if (address !== undefined) yield () => nodes.set(formatAddress(address), key);
    }
    for (const { name, addresses } of names.list()) {
      for (const { address } of addresses) yield () => addName(dns, address, name);
    }
    for (const key of serviceKeys(tables)) {
      // Not merged: a large one would take too long at once.
      const service = tables.services.get(key);
      const slices = tables.serviceSlices.of(key).map(({ backends }) => backends);
      const name = key.slice(key.indexOf('/') + 1);
      for (const part of [...(service === undefined ? [] : [service.backends, service.frontends]), ...slices])
        for (const address of part.keys()) yield () => services.set(address, name);
    }
  }
}

function addName(dns: Names['dns'], address: string, name: string): void {
  const names = dns.get(address);
  if (names === undefined) dns.set(address, [name]);
  else if (names.length < MAX_NAMES) names.push(name);
}
