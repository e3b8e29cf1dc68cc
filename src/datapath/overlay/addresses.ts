import { formatPrefix, type Prefix } from '../../core/ip.ts';
import { AttributeWriter } from '../../host/attributes.ts';
import { type Link, readAddresses } from '../../host/links.ts';
import { type NetlinkSocket, NLM_F_CREATE } from '../../host/netlink.ts';
import { ADDRESS_HEADER, AF_INET, AF_INET6, IFA, IFA_F, RTM, SCOPE } from '../../host/rtnetlink.ts';

/** Makes the addresses of the device be these, adding first: routes may need one as their source. */
export class DeviceAddresses {
  readonly #socket: NetlinkSocket;
  readonly #link: Link;
  readonly #wanted: ReadonlyMap<string, Prefix>;
  readonly #present: ReadonlyMap<string, Prefix>;

  private constructor(socket: NetlinkSocket, link: Link, lists: [Map<string, Prefix>, Map<string, Prefix>]) {
    this.#socket = socket;
    this.#link = link;
    [this.#wanted, this.#present] = lists;
  }

  static async read(socket: NetlinkSocket, link: Link, wanted: readonly Prefix[]): Promise<DeviceAddresses> {
    const present = new Map<string, Prefix>();
    for (const each of await readAddresses(socket)) {
      // An address of link scope is the kernel's, or somebody's who wants to try something.
      if (each.link !== link.index || each.scope === SCOPE.link) continue;
      const prefix = { ...each.address, bits: each.bits };
      present.set(formatPrefix(prefix), prefix);
    }
    return new DeviceAddresses(socket, link, [new Map(wanted.map((each) => [formatPrefix(each), each])), present]);
  }

  async addMissing(): Promise<void> {
    await this.#each(this.#wanted, this.#present, RTM.newAddress);
  }

  /** @returns whether that took the last address of IPv4 away: the kernel then drops all routes of IPv4 on the device */
  async removeOthers(): Promise<boolean> {
    const has4 = (prefixes: ReadonlyMap<string, Prefix>): boolean =>
      [...prefixes.values()].some(({ family }) => family === 4);
    await this.#each(this.#present, this.#wanted, RTM.delAddress);
    return has4(this.#present) && !has4(this.#wanted);
  }

  async #each(from: ReadonlyMap<string, Prefix>, without: ReadonlyMap<string, Prefix>, type: number): Promise<void> {
    for (const [text, prefix] of from) {
      if (without.has(text)) continue;
      const verb = type === RTM.newAddress ? 'add' : 'remove';
      const body = addressBody(this.#link, prefix);
      const flags = type === RTM.newAddress ? NLM_F_CREATE : 0;
      await this.#socket.request({ type, flags, body, operation: `${verb} ${text} on ${this.#link.name}` });
    }
  }
}

function addressBody(link: Link, prefix: Prefix): Buffer {
  const writer = new AttributeWriter(128);
  const body = Buffer.alloc(ADDRESS_HEADER);
  body[0] = prefix.family === 4 ? AF_INET : AF_INET6;
  body[1] = prefix.bits;
  body.writeUInt32LE(link.index, 4);
  writer.raw(body);
  writer.wordsBe(IFA.local, prefix.words);
  writer.wordsBe(IFA.address, prefix.words);
  // No connected route, and no duplicate detection: there is nobody on the link who could answer.
  writer.u32(IFA.flags, IFA_F.noPrefixRoute | IFA_F.noDad);
  return writer.bytes();
}
