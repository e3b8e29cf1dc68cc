import type { FlowEndRecord } from '../../api/flow-types.ts';
import { RESERVED } from '../../core/identity.ts';
import { type Address, formatAddress } from '../../core/ip.ts';
import { labelTexts } from '../../core/labels.ts';
import { nodeIp } from '../../kvstore/codec/node.ts';
import type { Agent } from '../agent.ts';
import { worldOf } from '../explain/party.ts';
import { serviceFact, serviceKeys } from '../services/service-facts.ts';
import { labelsOf } from '../views/list-views.ts';

/** What is known of an address counts for so long, milliseconds: a flood asks for the same ones again and again. */
const FRESH_MS = 1_000;
/** Indexes of names are made anew at most so often; they may be long. */
const INDEX_MS = 10_000;
const MAX_ENDS = 4_096;
/** Entries of an index: beyond that, names are not worth the time. */
const MAX_INDEX = 100_000;

/** Who an address is, from present facts. */
export class FlowEnds {
  readonly #agent: Agent;
  readonly #ends = new Map<string, FlowEndRecord>();
  #freshUntil = 0;
  #indexUntil = 0;
  #nodes = new Map<string, string>();
  #services = new Map<string, string>();
  #names = new Map<string, string[]>();

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
    if (now > this.#indexUntil) {
      this.#index();
      this.#indexUntil = performance.now() + INDEX_MS;
    }
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
    const node = this.#nodes.get(text);
    const service = this.#services.get(text);
    const names = this.#names.get(text);
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

  #index(): void {
    const { tables, names } = this.#agent;
    this.#nodes = new Map();
    this.#services = new Map();
    this.#names = new Map();
    if (tables.nodes.size < MAX_INDEX) {
      for (const [key, node] of tables.nodes.entries()) {
        for (const address of [nodeIp(node, 4), nodeIp(node, 6)])
          if (address !== undefined) this.#nodes.set(formatAddress(address), key);
      }
    }
    let left = MAX_INDEX;
    for (const key of serviceKeys(tables)) {
      if (left <= 0) break;
      const service = serviceFact(tables, key);
      if (service === undefined) continue;
      const { namespace, name, frontends, backends } = service;
      for (const ports of [backends, frontends]) {
        for (const address of ports.keys()) {
          if (left-- <= 0) break;
          this.#services.set(address, `${namespace}/${name}`);
        }
      }
    }
    for (const { name, addresses } of names.list()) {
      for (const { address } of addresses) {
        const known = this.#names.get(address);
        if (known === undefined) this.#names.set(address, [name]);
        else known.push(name);
      }
    }
  }
}
