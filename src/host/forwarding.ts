import { readFileSync } from 'node:fs';

const SWITCHES = ['/proc/sys/net/ipv4/ip_forward', '/proc/sys/net/ipv6/conf/all/forwarding'];

/** Whether packets of others pass through this network namespace: those of containers and virtual machines, for instance. */
export function forwardsPackets(): boolean {
  return SWITCHES.some(isOn);
}

function isOn(path: string): boolean {
  try {
    return readFileSync(path, 'latin1').trim() !== '0';
  } catch {
    // Without IPv6 there is no such switch.
    return false;
  }
}
