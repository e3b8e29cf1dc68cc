import type { FlowRecord } from '../../api/flow-types.ts';
import { type Address, formatAddress } from '../../core/ip.ts';
import { type PacketHeaders, readPacket } from '../../core/packet.ts';
import { VERDICT_KINDS, type VerdictPoint } from '../../datapath/verdict-log.ts';
import { PROTOCOL } from '../../policy/result.ts';
import type { Agent } from '../agent.ts';
import { isIcmp, protocolWord } from '../explain/question.ts';
import { OVERLAY_DEVICE } from '../machine.ts';
import { Deciding } from './deciding.ts';
import { FlowEnds } from './flow-ends.ts';

/** What the kernel told of one packet; `payload` from the network header on. */
export interface ToldPacket {
  readonly point: VerdictPoint;
  readonly payload: Buffer;
  readonly inDevice: number;
  readonly outDevice: number;
  readonly hook: number;
  /** Milliseconds since the epoch. */
  readonly time: number;
}

const HOOK = { prerouting: 0, input: 1 } as const;
const TCP_FLAGS = ['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG', 'ECE', 'CWR'] as const;
const WITH_PORTS: ReadonlySet<number> = new Set([PROTOCOL.tcp, PROTOCOL.udp, PROTOCOL.sctp]);

/** Makes records of packets. */
export class FlowMaker {
  readonly #agent: Agent;
  readonly #ends: FlowEnds;
  readonly #deciding: Deciding;
  readonly #flags = new Map<number, readonly string[]>();
  readonly #devices = new Map<number, { readonly index: number; readonly name: string }>();
  #roles: unknown;

  constructor(agent: Agent) {
    this.#agent = agent;
    this.#ends = new FlowEnds(agent);
    this.#deciding = new Deciding(agent);
  }

  /** Names are known before the first packet comes. */
  prepare(): void {
    this.#ends.index();
  }

  /** Undefined for a packet that cannot be read. */
  make(told: ToldPacket, number: number): FlowRecord | undefined {
    const headers = readPacket(told.payload);
    if (headers === undefined) return undefined;
    const { point } = told;
    const { protocol } = headers;
    const ingress = entersMachine(told);
    // An answer is judged by the policy of the direction that the connection was opened in.
    const reply = ingress ? point.side === 'out' : point.side === 'in';
    const source = this.#ends.find(headers.source, !ingress);
    const destination = this.#ends.find(headers.destination, ingress);
    const [peer, address] = ingress ? [source, headers.source] : [destination, headers.destination];
    const port = reply ? headers.sourcePort : headers.destinationPort;
    const direction = point.side === 'in' ? 'ingress' : 'egress';
    const { identity } = peer;
    const { kind } = point;
    const device = this.#device(ingress ? told.inDevice : told.outDevice || told.inDevice);
    const overlay = device.name === OVERLAY_DEVICE;
    const decided = this.#deciding.of({ kind, direction, peer: { address, identity }, protocol, port, overlay });
    const hasPorts = WITH_PORTS.has(protocol) && !headers.fragment;
    return {
      number,
      time: told.time,
      verdict: VERDICT_KINDS[kind].verdict,
      direction: ingress ? 'ingress' : 'egress',
      reply,
      ipVersion: headers.source.family,
      protocol: protocolWord(protocol),
      source,
      ...(hasPorts && { sourcePort: headers.sourcePort }),
      destination,
      ...(hasPorts && { destinationPort: headers.destinationPort }),
      ...(protocol === PROTOCOL.tcp && hasPorts && { tcpFlags: this.#flagsOf(headers.tcpFlags) }),
      ...(isIcmp(protocol) && !headers.fragment && { icmp: { type: headers.destinationPort, code: headers.icmpCode } }),
      ...(headers.fragment && { fragment: true as const }),
      bytes: headers.length,
      ...(decided.reason !== undefined && { dropReason: decided.reason }),
      policy: decided.policy,
      interface: device,
      explain: this.#explain({ told, headers, direction, address, port }),
    };
  }

  #flagsOf(bits: number): readonly string[] {
    const known = this.#flags.get(bits);
    if (known !== undefined) return known;
    const flags = TCP_FLAGS.filter((_, bit) => (bits & (1 << bit)) !== 0);
    this.#flags.set(bits, flags);
    return flags;
  }

  #device(index: number): FlowRecord['interface'] {
    const { devices } = this.#agent.machine;
    if (this.#roles !== devices || this.#devices.size > 256) {
      this.#roles = devices;
      this.#devices.clear();
    }
    const known = this.#devices.get(index);
    if (known !== undefined) return known;
    const made = { index, name: devices.find((each) => each.index === index)?.name ?? '' };
    this.#devices.set(index, made);
    return made;
  }

  #explain(of: {
    readonly told: ToldPacket;
    readonly headers: PacketHeaders;
    readonly direction: 'ingress' | 'egress';
    readonly address: Address;
    readonly port: number;
  }): string[] {
    const { told, headers, direction, address, port } = of;
    const peer = formatAddress(address);
    if (told.point.kind === 'no_backend') {
      const owner = this.#agent.services.model.ownerOf(`${peer} ${headers.protocol} ${port}`);
      if (owner !== undefined) return ['service', 'get', owner.name];
    }
    const ends = direction === 'ingress' ? [peer, 'self'] : ['self', peer];
    const { protocol } = headers;
    const asked = (WITH_PORTS.has(protocol) || isIcmp(protocol)) && !headers.fragment;
    return ['policy', 'explain', ...ends, ...(asked ? [`${protocolWord(protocol)}/${port}`] : [])];
  }
}

/** Containers' requests to a service are seen as they enter the host, and are on their way out. */
function entersMachine({ point, hook }: ToldPacket): boolean {
  return (hook === HOOK.prerouting || hook === HOOK.input) && point.kind !== 'no_backend';
}
