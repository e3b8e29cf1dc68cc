import { Attributes, AttributeWriter } from './attributes.ts';
import { NETLINK_NETFILTER, type NetlinkMessage, NetlinkSocket } from './netlink.ts';

/** A packet that a `log group N` rule told of (linux/netfilter/nfnetlink_log.h). */
export interface LoggedPacket {
  /** From the network header on, as far as it was copied. A view, valid during the call. */
  readonly payload: Buffer;
  readonly family: 4 | 6;
  /** Of the rule; tells rules of one group apart. */
  readonly prefix: string;
  readonly mark: number;
  /** Index of the device, 0 for none. */
  readonly inDevice: number;
  readonly outDevice: number;
  /** Of netfilter: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting. */
  readonly hook: number;
}

export interface PacketLogOptions {
  readonly group: number;
  /** Bytes of each packet that are copied. */
  readonly copyBytes: number;
  readonly onPacket: (packet: LoggedPacket) => void;
  /** The kernel had more than we took: packets were not told of. */
  readonly onLost?: () => void;
  /** The same with their number, as far as it is known; makes the kernel number what it tells. */
  readonly onMissed?: (packets: number) => void;
  /** The kernel may gather so many packets for so long (hundredths of a second); it tells of each at once by default. */
  readonly gather?: { readonly packets: number; readonly hundredths: number };
  /** Bytes that wait for us; 2 MiB by default. */
  readonly receiveBuffer?: number;
}

const SUBSYSTEM = 4 << 8;
const MESSAGE = { packet: 0, config: 1 } as const;
const CONFIG = { command: 1, mode: 2, timeout: 4, threshold: 5, flags: 6 } as const;
const COMMAND_BIND = 1;
const COPY_PACKET = 2;
const FLAG_SEQUENCE = 1;
const PACKET = { header: 1, mark: 2, inDevice: 4, outDevice: 5, payload: 9, prefix: 10, sequence: 12 } as const;
const ETHERTYPE = { ipv4: 0x0800, ipv6: 0x86dd } as const;

/** Hears of the packets of one log group. One listener per group and namespace: a second one is refused with EPERM. */
export class PacketLog {
  readonly #socket: NetlinkSocket;
  readonly #options: PacketLogOptions;
  #sequence: number | undefined;

  constructor(options: PacketLogOptions) {
    this.#options = options;
    this.#socket = new NetlinkSocket({
      family: NETLINK_NETFILTER,
      receiveBuffer: options.receiveBuffer ?? 2 << 20,
      onEvent: (message) => this.#receive(message),
      onLost: () => options.onLost?.(),
    });
  }

  /** Throws NetlinkError. */
  async open(): Promise<void> {
    const { copyBytes, gather = { packets: 1, hundredths: 1 }, onMissed } = this.#options;
    await this.#configure((writer) => writer.data(CONFIG.command, Uint8Array.of(COMMAND_BIND)));
    await this.#configure((writer) => {
      const mode = Buffer.alloc(6);
      mode.writeUInt32BE(copyBytes, 0);
      mode[4] = COPY_PACKET;
      writer.data(CONFIG.mode, mode);
      writer.u32be(CONFIG.threshold, gather.packets);
      writer.u32be(CONFIG.timeout, gather.hundredths);
      if (onMissed !== undefined) writer.data(CONFIG.flags, Uint8Array.of(0, FLAG_SEQUENCE));
    });
  }

  close(): void {
    this.#socket.close();
  }

  async #configure(write: (writer: AttributeWriter) => void): Promise<void> {
    const writer = new AttributeWriter(64);
    const { group } = this.#options;
    writer.raw(Uint8Array.of(0, 0, group >>> 8, group & 255));
    write(writer);
    await this.#socket.request({
      type: SUBSYSTEM | MESSAGE.config,
      body: writer.bytes(),
      operation: `listen to log group ${group}`,
    });
  }

  #receive(message: NetlinkMessage): void {
    if (message.type !== (SUBSYSTEM | MESSAGE.packet)) return;
    const attributes = new Attributes(message.body, 4);
    this.#follow(attributes.u32be(PACKET.sequence));
    const payload = attributes.data(PACKET.payload);
    const header = attributes.data(PACKET.header);
    if (payload === undefined || header === undefined || header.length < 2) return;
    const type = header.readUInt16BE(0);
    if (type !== ETHERTYPE.ipv4 && type !== ETHERTYPE.ipv6) return;
    this.#options.onPacket({
      payload,
      family: type === ETHERTYPE.ipv4 ? 4 : 6,
      prefix: attributes.string(PACKET.prefix) ?? '',
      mark: attributes.u32be(PACKET.mark) ?? 0,
      inDevice: attributes.u32be(PACKET.inDevice) ?? 0,
      outDevice: attributes.u32be(PACKET.outDevice) ?? 0,
      hook: header[2] ?? 0,
    });
  }

  #follow(sequence: number | undefined): void {
    if (sequence === undefined) return;
    const expected = this.#sequence === undefined ? sequence : (this.#sequence + 1) >>> 0;
    this.#sequence = sequence;
    const missed = (sequence - expected) >>> 0;
    // Half of all numbers is no gap, it is a kernel that counts anew.
    if (missed > 0 && missed < 0x8000_0000) this.#options.onMissed?.(missed);
  }
}
