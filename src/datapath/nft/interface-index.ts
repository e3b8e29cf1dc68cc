import { AttributeWriter } from '../../host/attributes.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../../host/netlink.ts';
import { NetlinkError } from '../../host/netlink-error.ts';

const RTM_GETLINK = 18;
const IFLA_IFNAME = 3;

/** The index of a device in the network namespace of this process (which /sys need not show), or undefined for none. */
export async function interfaceIndex(device: string): Promise<number | undefined> {
  const socket = new NetlinkSocket({ family: NETLINK_ROUTE });
  try {
    const writer = new AttributeWriter(64);
    writer.raw(new Uint8Array(16));
    writer.string(IFLA_IFNAME, device);
    const [body] = await socket.request({ type: RTM_GETLINK, body: writer.bytes(), operation: `find ${device}` });
    return body?.readInt32LE(4);
  } catch (error) {
    if (error instanceof NetlinkError && ['ENODEV', 'ERANGE', 'EINVAL'].includes(error.errnoName)) return undefined;
    throw error;
  } finally {
    socket.close();
  }
}
