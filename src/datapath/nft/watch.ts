import { Attributes } from '../../host/attributes.ts';
import { NETLINK_NETFILTER, NetlinkSocket } from '../../host/netlink.ts';
import { INET, NETDEV, NFT } from './elements.ts';
import { generation } from './kernel.ts';
import { TABLE } from './names.ts';

const SUBSYSTEM_NUMBER = 10;
const GROUP_NFTABLES = 7;
/** Programs of ours whose late events are still known. */
const REMEMBERED = 8;

/**
 * Tells when somebody else changes our table. Events carry the port id of their sender: our socket's, or the process id of
 * an `nft` that we ran. While we write (`busy`) foreign ones are kept until it is known which programs were ours.
 *
 * A large load would flood the listener with its own events, and cost the kernel the time to make them: for that long
 * nobody listens, and the number of transactions tells whether somebody else came between.
 */
export class TableWatch {
  readonly #socket: NetlinkSocket;
  readonly #onForeign: (what: string) => void;
  #events: NetlinkSocket | undefined;
  #programs: number[] = [];
  #busy = false;
  #early: number[] = [];
  #since: { generation: number; transactions: number } | undefined;

  /** `socket` is the one that we write with. */
  constructor(socket: NetlinkSocket, onForeign: (what: string) => void) {
    this.#socket = socket;
    this.#onForeign = onForeign;
    this.#listen();
  }

  /** Process id of an `nft` that we ran. */
  ranProgram(pid: number): void {
    this.#programs = [...this.#programs.slice(1 - REMEMBERED), pid];
    if (this.#since !== undefined) this.#since.transactions++;
  }

  begin(): void {
    this.#busy = true;
  }

  /** Stops listening until `end`. */
  async deafen(): Promise<void> {
    if (this.#since !== undefined) return;
    this.#since = { generation: await generation(this.#socket), transactions: 0 };
    this.#events?.close();
    this.#events = undefined;
  }

  /** Told after each transaction that went through the socket. */
  wrote(): void {
    if (this.#since !== undefined) this.#since.transactions++;
  }

  /** The writing is over. `failed`: how many transactions there were is not known. */
  async end(failed: boolean): Promise<void> {
    this.#busy = false;
    const since = this.#since;
    this.#since = undefined;
    if (since !== undefined) {
      this.#listen();
      const now = await generation(this.#socket);
      if (!failed && now !== since.generation + since.transactions) this.#onForeign('somebody wrote during a load');
    }
    const foreign = this.#early.filter((portId) => !this.#isOurs(portId));
    this.#early = [];
    if (foreign.length > 0) this.#onForeign(nameOf(foreign[0]));
  }

  close(): void {
    this.#events?.close();
  }

  #listen(): void {
    const events = new NetlinkSocket({
      family: NETLINK_NETFILTER,
      onEvent: (message) => {
        if (message.type >> 8 !== SUBSYSTEM_NUMBER || (message.type & 255) === NFT.newGen) return;
        if (message.body[0] !== INET && message.body[0] !== NETDEV) return;
        if (new Attributes(message.body, 4).string(1) !== TABLE) return;
        this.#changed(message.portId);
      },
      onLost: () => this.#onForeign('events were lost'),
    });
    events.join(GROUP_NFTABLES);
    this.#events = events;
  }

  #changed(portId: number): void {
    if (this.#isOurs(portId)) return;
    if (!this.#busy) this.#onForeign(nameOf(portId));
    else if (this.#early.length < 64) this.#early.push(portId);
  }

  #isOurs(portId: number): boolean {
    return portId === this.#socket.portId || this.#programs.includes(portId);
  }
}

function nameOf(portId: number | undefined): string {
  const who = portId === undefined || portId === 0 ? 'the kernel' : `process ${portId}`;
  return `${who} changed table inet ${TABLE}`;
}
