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
}

export interface PacketLogOptions {
  readonly group: number;
  /** Bytes of each packet that are copied. */
  readonly copyBytes: number;
  readonly onPacket: (packet: LoggedPacket) => void;
  /** The kernel had more than we took: packets were not told of. */
  readonly onLost?: () => void;
  /** Bytes that wait for us; 2 MiB by default. */
  readonly receiveBuffer?: number;
}

const SUBSYSTEM = 4 << 8;
const MESSAGE = { packet: 0, config: 1 } as const;
const CONFIG = { command: 1, mode: 2, timeout: 4, threshold: 5 } as const;
const COMMAND_BIND = 1;
const COPY_PACKET = 2;
const PACKET = { header: 1, mark: 2, inDevice: 4, outDevice: 5, payload: 9, prefix: 10 } as const;
const ETHERTYPE = { ipv4: 0x0800, ipv6: 0x86dd } as const;

/** Hears of the packets of one log group. One listener per group and namespace: a second one is refused with EPERM. */
export class PacketLog {
  readonly #socket: NetlinkSocket;
  readonly #options: PacketLogOptions;

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
    const { copyBytes } = this.#options;
    await this.#configure((writer) => writer.data(CONFIG.command, Uint8Array.of(COMMAND_BIND)));
    await this.#configure((writer) => {
      const mode = Buffer.alloc(6);
      mode.writeUInt32BE(copyBytes, 0);
      mode[4] = COPY_PACKET;
      writer.data(CONFIG.mode, mode);
      // Each packet at once: whoever listens wants to act on it.
      writer.u32be(CONFIG.threshold, 1);
      writer.u32be(CONFIG.timeout, 1);
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
    });
  }
}
