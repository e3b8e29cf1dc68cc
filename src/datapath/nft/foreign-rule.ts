import type { Attributes } from '../../host/attributes.ts';

/** What a rule asks of a packet, as far as it can be told: `unknown` counts what cannot. */
export interface RuleShape {
  readonly effect: 'drop' | 'reject' | 'notrack' | 'offload';
  readonly protocol?: number;
  readonly sourcePorts?: readonly [first: number, last: number];
  readonly destinationPorts?: readonly [first: number, last: number];
  readonly source?: AddressMatch;
  readonly destination?: AddressMatch;
  readonly device?: string;
  readonly unknown: number;
  /** Of the rule's counter; undefined without one. */
  readonly packets?: number;
}

export interface AddressMatch {
  /** 4 or 16 bytes, less for a prefix of whole bytes. */
  readonly bytes: Uint8Array;
  readonly mask?: Uint8Array;
  readonly family: 4 | 6;
}

export interface ReadRule {
  /** Only of a rule that keeps packets from passing or from being judged. */
  readonly shape: RuleShape | undefined;
  readonly jump: string | undefined;
  /** It accepts, returns or leads elsewhere, and may do so with the first packet of a connection. */
  readonly leaves: boolean;
}

type Field =
  | 'protocol'
  | 'sourcePort'
  | 'destinationPort'
  | 'source4'
  | 'source6'
  | 'destination4'
  | 'destination6'
  | 'device'
  | 'state'
  | 'family';

/** Numbers of linux/netfilter/nf_tables.h. */
const EXPRESSION = { name: 1, data: 2 };
const PAYLOAD = { register: 1, base: 2, offset: 3, length: 4, network: 1, transport: 2 };
const META = { register: 1, key: 2, inName: 6, outName: 7, family: 15, protocol: 16 };
const CT = { register: 1, key: 2, state: 0 };
/** Bit of the state that the first packet of a connection has. */
const NEW = 8;
const LOOKUP = { from: 2, to: 3, verdict: 0 };
const CMP = { register: 1, operation: 2, data: 3, equal: 0 };
const BITWISE = { from: 1, to: 2, mask: 4 };
const RANGE = { register: 1, operation: 2, first: 3, last: 4 };
const IMMEDIATE = { register: 1, data: 2 };
const COUNTER = { packets: 2 };
const DATA = { value: 1, verdict: 2, verdictCode: 1, verdictChain: 2 };
const MATCH = { name: 1, info: 3 };
const VERDICT = { drop: 0, accept: 1, jump: -3, goto: -4, return: -5 };
/** They ask nothing of a packet. */
const SILENT = new Set(['counter', 'log', 'immediate', 'comment', 'reject', 'notrack', 'flow_offload']);

/** Reads the expressions of one rule in the order of the kernel. */
export function readRule(expressions: readonly Attributes[]): ReadRule {
  const reader = new RuleReader();
  for (const each of expressions) {
    const name = each.string(EXPRESSION.name) ?? '';
    reader.take(name, each.nested(EXPRESSION.data));
  }
  return reader.result();
}

class RuleReader {
  readonly #registers = new Map<number, { field: Field; mask?: Uint8Array }>();
  readonly #shape: { -readonly [K in keyof RuleShape]?: RuleShape[K] } = {};
  #unknown = 0;
  #jump: string | undefined;
  #leaves = false;
  /** Only packets of connections that are known already meet it. */
  #onlyKnown = false;

  take(name: string, data: Attributes | undefined): void {
    if (data === undefined) {
      if (name === 'notrack') this.#shape.effect = 'notrack';
      else if (!SILENT.has(name)) this.#unknown++;
    } else if (name === 'payload') this.#load(data.u32be(PAYLOAD.register), payloadField(data));
    else if (name === 'meta') this.#load(data.u32be(META.register), metaField(data.u32be(META.key)));
    else if (name === 'ct' && data.u32be(CT.key) === CT.state) this.#load(data.u32be(CT.register), 'state');
    else if (name === 'bitwise') this.#mask(data);
    else if (name === 'lookup') this.#lookup(data);
    else if (name === 'cmp') this.#compare(data);
    else if (name === 'range') this.#range(data);
    else if (name === 'match') this.#match(data);
    else if (name === 'immediate') this.#verdict(data);
    else if (name === 'counter') this.#shape.packets = Number(data.u64be(COUNTER.packets) ?? 0n);
    else if (name === 'reject' || name === 'target') this.#target(name, data);
    else if (name === 'notrack') this.#shape.effect = 'notrack';
    else if (name === 'flow_offload') this.#shape.effect = 'offload';
    else if (!SILENT.has(name)) this.#unknown++;
  }

  result(): ReadRule {
    const { effect } = this.#shape;
    const shape = effect === undefined ? undefined : { ...this.#shape, effect, unknown: this.#unknown };
    return { shape, jump: this.#jump, leaves: this.#leaves && !this.#onlyKnown };
  }

  #load(register: number | undefined, field: Field | undefined): void {
    if (register === undefined) return;
    if (field === undefined) this.#registers.delete(register);
    else this.#registers.set(register, { field });
  }

  #mask(data: Attributes): void {
    const held = this.#registers.get(data.u32be(BITWISE.from) ?? -1);
    const mask = data.nested(BITWISE.mask)?.data(DATA.value);
    if (held === undefined || mask === undefined) return;
    if (held.field === 'state' && mask.length >= 4 && (mask.readUInt32LE() & NEW) === 0) this.#onlyKnown = true;
    this.#registers.set(data.u32be(BITWISE.to) ?? -1, { ...held, mask: Buffer.from(mask) });
  }

  /** In a map of verdicts there may be any; those of states are for packets of known connections. */
  #lookup(data: Attributes): void {
    this.#unknown++;
    const state = this.#registers.get(data.u32be(LOOKUP.from) ?? -1)?.field === 'state';
    if (data.u32be(LOOKUP.to) === LOOKUP.verdict && !state) this.#leaves = true;
  }

  #compare(data: Attributes): void {
    const held = this.#registers.get(data.u32be(CMP.register) ?? -1);
    const value = data.nested(CMP.data)?.data(DATA.value);
    if (held === undefined || value === undefined || data.u32be(CMP.operation) !== CMP.equal) this.#unknown++;
    else this.#set(held.field, Buffer.from(value), held.mask);
  }

  #range(data: Attributes): void {
    const held = this.#registers.get(data.u32be(RANGE.register) ?? -1);
    const first = data.nested(RANGE.first)?.data(DATA.value);
    const last = data.nested(RANGE.last)?.data(DATA.value);
    const port = held?.field === 'destinationPort' || held?.field === 'sourcePort';
    if (!port || first?.length !== 2 || last?.length !== 2 || data.u32be(RANGE.operation) !== 0) this.#unknown++;
    else
      this.#ports(held.field === 'sourcePort' ? 'source' : 'destination', [first.readUInt16BE(), last.readUInt16BE()]);
  }

  #set(field: Field, value: Buffer, mask: Uint8Array | undefined): void {
    const address = (family: 4 | 6): AddressMatch => ({ bytes: value, family, ...(mask !== undefined && { mask }) });
    if (field === 'protocol') this.#shape.protocol = value[0] ?? 0;
    else if (field === 'sourcePort' && value.length === 2)
      this.#ports('source', [value.readUInt16BE(), value.readUInt16BE()]);
    else if (field === 'destinationPort' && value.length === 2)
      this.#ports('destination', [value.readUInt16BE(), value.readUInt16BE()]);
    else if (field === 'source4') this.#shape.source = address(4);
    else if (field === 'source6') this.#shape.source = address(6);
    else if (field === 'destination4') this.#shape.destination = address(4);
    else if (field === 'destination6') this.#shape.destination = address(6);
    else if (field === 'device') this.#shape.device = value.toString('latin1').split('\0')[0] ?? '';
    else if (field !== 'family') this.#unknown++;
  }

  #ports(side: 'source' | 'destination', range: readonly [number, number]): void {
    if (side === 'source') this.#shape.sourcePorts = range;
    else this.#shape.destinationPorts = range;
  }

  /** Matches of iptables: struct xt_tcp and xt_udp begin with source and destination ports, in the order of the machine. */
  #match(data: Attributes): void {
    const info = data.data(MATCH.info);
    const name = data.string(MATCH.name);
    if ((name !== 'tcp' && name !== 'udp') || info === undefined || info.length < 8) {
      if (name !== 'comment') this.#unknown++;
      return;
    }
    const whole = (first: number, last: number): boolean => first === 0 && last === 0xffff;
    const numbers = [0, 2, 4, 6].map((at) => info.readUInt16LE(at)) as [number, number, number, number];
    this.#shape.protocol = name === 'tcp' ? 6 : 17;
    if (!whole(numbers[0], numbers[1])) this.#ports('source', [numbers[0], numbers[1]]);
    if (!whole(numbers[2], numbers[3])) this.#ports('destination', [numbers[2], numbers[3]]);
  }

  #target(name: string, data: Attributes): void {
    const target = name === 'reject' ? 'REJECT' : data.string(MATCH.name);
    if (target === 'REJECT') this.#shape.effect = 'reject';
    else if (target === 'NOTRACK' || target === 'CT') this.#shape.effect = 'notrack';
    else if (target === 'DROP') this.#shape.effect = 'drop';
  }

  #verdict(data: Attributes): void {
    const verdict = data.nested(IMMEDIATE.data)?.nested(DATA.verdict);
    const code = verdict?.u32be(DATA.verdictCode);
    if (verdict === undefined || code === undefined) return;
    if ((code | 0) === VERDICT.drop) this.#shape.effect = 'drop';
    else if ((code | 0) === VERDICT.jump || (code | 0) === VERDICT.goto) {
      this.#jump = verdict.string(DATA.verdictChain);
      this.#leaves = true;
    } else this.#leaves = true;
  }
}

function payloadField(data: Attributes): Field | undefined {
  const [base, offset] = [data.u32be(PAYLOAD.base), data.u32be(PAYLOAD.offset)];
  const length = data.u32be(PAYLOAD.length) ?? 0;
  if (base === PAYLOAD.transport && length === 2)
    return offset === 0 ? 'sourcePort' : offset === 2 ? 'destinationPort' : undefined;
  if (base !== PAYLOAD.network) return undefined;
  if (offset === 9 && length === 1) return 'protocol';
  if (offset === 12 && length <= 4) return 'source4';
  if (offset === 16 && length <= 4) return 'destination4';
  if (offset === 8 && length <= 16) return 'source6';
  return offset === 24 && length <= 16 ? 'destination6' : undefined;
}

function metaField(key: number | undefined): Field | undefined {
  if (key === META.protocol) return 'protocol';
  if (key === META.inName || key === META.outName) return 'device';
  return key === META.family ? 'family' : undefined;
}
