import { Attributes, AttributeWriter } from '../../host/attributes.ts';
import { NETLINK_NETFILTER, NetlinkSocket } from '../../host/netlink.ts';
import { INET, NFT, SUBSYSTEM } from './elements.ts';
import { TABLE } from './ruleset.ts';

const GET_RULE = 7;
const GROUP = 7;

/** Names of the chains in our table; empty without a table. */
export async function chains(socket: NetlinkSocket): Promise<string[]> {
  const names: string[] = [];
  await socket.dump(
    { type: SUBSYSTEM | NFT.getChain, body: Uint8Array.of(INET, 0, 0, 0), operation: 'read chains' },
    (message) => {
      const attributes = new Attributes(message.body, 4);
      const name = attributes.string(3);
      if (message.body[0] === INET && attributes.string(1) === TABLE && name !== undefined) names.push(name);
    },
  );
  return names;
}

/** Rules of our table, those of `except` not counted. */
export async function ruleCount(socket: NetlinkSocket, except: string): Promise<number> {
  let count = 0;
  await socket.dump(
    { type: SUBSYSTEM | GET_RULE, body: Uint8Array.of(INET, 0, 0, 0), operation: 'count rules' },
    (message) => {
      const attributes = new Attributes(message.body, 4);
      if (message.body[0] === INET && attributes.string(1) === TABLE && attributes.string(2) !== except) count++;
    },
  );
  return count;
}

/** A named counter; zero if there is none. */
export async function readCounter(socket: NetlinkSocket, name: string): Promise<{ packets: number; bytes: number }> {
  const writer = new AttributeWriter(128);
  writer.raw(Uint8Array.of(INET, 0, 0, 0));
  writer.string(1, TABLE);
  writer.string(2, name);
  writer.u32be(3, 1);
  const [body] = await socket.request({
    type: SUBSYSTEM | NFT.getObject,
    body: writer.bytes(),
    operation: `read counter ${name}`,
  });
  const data = body === undefined ? undefined : new Attributes(body, 4).nested(4);
  return { bytes: Number(data?.u64be(1) ?? 0n), packets: Number(data?.u64be(2) ?? 0n) };
}

/** Calls back with the port id of whoever changed our table, or undefined when events were lost. */
export function watchTable(onChange: (portId: number | undefined) => void): NetlinkSocket {
  const socket = new NetlinkSocket({
    family: NETLINK_NETFILTER,
    onEvent: (message) => {
      if (message.type >> 8 !== 10 || (message.type & 255) === NFT.newGen) return;
      if (message.body[0] === INET && new Attributes(message.body, 4).string(1) === TABLE) onChange(message.portId);
    },
    onLost: () => onChange(undefined),
  });
  socket.join(GROUP);
  return socket;
}
