import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const IPV4 = '/proc/sys/net/ipv4/conf';
const IPV6 = '/proc/sys/net/ipv6/conf';

/**
 * Whether packets of others pass through this network namespace: those of containers and virtual machines, for instance. There
 * is a switch for all devices, and one for each (of IPv6 since Linux 6.17): systemd-networkd sets those of single ones.
 */
export function forwardsPackets(): boolean {
  return isOn(IPV4, 'all', 'forwarding') || isOn(IPV6, 'all', 'forwarding') || anyDeviceForwards();
}

function anyDeviceForwards(): boolean {
  return [
    [IPV4, 'forwarding'],
    [IPV6, 'force_forwarding'],
  ].some(([folder = '', setting = '']) => devicesOf(folder).some((device) => isOn(folder, device, setting)));
}

/** `default` is for devices that are still to come: each has a switch of its own then. */
function devicesOf(folder: string): string[] {
  try {
    return readdirSync(folder).filter((name) => name !== 'default');
  } catch {
    // Without IPv6 there is no such folder.
    return [];
  }
}

function isOn(folder: string, device: string, setting: string): boolean {
  try {
    return readFileSync(join(folder, device, setting), 'latin1').trim() !== '0';
  } catch {
    return false;
  }
}
