import { readFileSync } from 'node:fs';

const MAX_SERVERS = 3;

/** As resolv.conf(5) says, at most three count. Empty when there is no such file. */
export function nameServers(): string[] {
  try {
    const text = readFileSync('/etc/resolv.conf', 'utf8');
    return [...text.matchAll(/^\s*nameserver\s+(\S+)/gm)].map(([, address]) => address ?? '').slice(0, MAX_SERVERS);
  } catch {
    return [];
  }
}
