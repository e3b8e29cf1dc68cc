import type { AlwaysRecord } from '../../api/policy-types.ts';
import { type Address, addressBits, contains, formatAddress, parsePrefix, prefixOf } from '../../core/ip.ts';
import type { Border } from '../../datapath/desired.ts';
import type { DeviceRole } from '../../datapath/devices.ts';
import { PROTOCOL } from '../../policy/result.ts';
import type { AskedPort } from './question.ts';

export interface AlwaysInput {
  readonly direction: 'ingress' | 'egress';
  readonly port: AskedPort | undefined;
  /** Of the peer, where it is known. */
  readonly address: Address | undefined;
  readonly border: Border;
  readonly hasOverlay: boolean;
}

const NEIGHBOURS: ReadonlySet<number> = new Set([130, 131, 132, 133, 134, 135, 136, 143]);
const TOO_BIG = 2;

/** What holds for a flow whatever the policies say (`datapath/nft/ruleset.ts`), or undefined. */
export function always(input: AlwaysInput): AlwaysRecord | undefined {
  const { direction, port, address, border } = input;
  if (port === undefined) return undefined;
  const { protocol, port: number } = port;
  const passes = (what: string, why: string): AlwaysRecord => ({ direction, verdict: 'allow', what, why });
  if (protocol === PROTOCOL.udp && input.hasOverlay && number === border.tunnelPort) return overlay(input);
  if (protocol === PROTOCOL.icmpv6 && NEIGHBOURS.has(number))
    return passes(`icmpv6/${number}`, 'neighbour discovery: IPv6 does not work without it');
  if (protocol === PROTOCOL.icmpv6 && number === TOO_BIG)
    return passes('icmpv6/2', 'packet too big: large packets would be lost without a word');
  if (border.failsafe[direction].some((each) => each.protocol === protocol && each.port === number))
    return passes(`port ${number}`, `failsafe.${direction} in the configuration`);
  if (direction === 'egress' && protocol === PROTOCOL.tcp && address !== undefined && isStore(border, address, number))
    return passes(`tcp to ${formatAddress(address)} port ${number}`, 'a store that the agent is connected to');
  return undefined;
}

/** Outer packets: from and to nodes they pass, all others never do. */
function overlay({ direction, address, border }: AlwaysInput): AlwaysRecord | undefined {
  if (address === undefined) return undefined;
  const node = border.nodes.some((each) => formatAddress(each) === formatAddress(address));
  const what = `udp/${border.tunnelPort}`;
  if (node) return { direction, verdict: 'allow', what, why: 'outer packets of the overlay; what is inside is judged' };
  if (direction === 'egress') return undefined;
  return { direction, verdict: 'deny', what, why: 'only known nodes may send packets of the overlay' };
}

function isStore(border: Border, address: Address, port: number): boolean {
  return border.stores.some((store) => store.port === port && formatAddress(store.address) === formatAddress(address));
}

/** The device inside the machine that leads to an address: such traffic is not judged. */
export function insideDevice(devices: readonly DeviceRole[], address: Address | undefined): string | undefined {
  if (address === undefined) return undefined;
  const single = prefixOf(address, addressBits(address.family));
  return devices.find(
    ({ role, addresses }) =>
      (role === 'internal' || role === 'loopback') &&
      addresses.some((text) => {
        const subnet = parsePrefix(text);
        return subnet !== undefined && contains(subnet, single);
      }),
  )?.name;
}

/** Flows that pass only under a condition that a question cannot name. */
export function conditions({ direction, port, border }: AlwaysInput): string[] {
  const found: string[] = [];
  if (port === undefined) {
    const failsafe = border.failsafe[direction];
    if (failsafe.length > 0)
      found.push(`failsafe ports (${failsafe.map((each) => each.port).join(', ')}) pass in any case`);
    return found;
  }
  const { protocol, port: number } = port;
  const dhcp = direction === 'ingress' ? [68, 546] : [67, 547];
  if (protocol === PROTOCOL.udp && dhcp.includes(number))
    found.push('packets of DHCP, from its own port, pass whatever the policies say');
  if (protocol === PROTOCOL.icmp && number === 3)
    found.push('"fragmentation needed" (code 4) passes whatever the policies say');
  return found;
}
