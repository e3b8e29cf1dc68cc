import { readFileSync } from 'node:fs';

const FOLDER = '/proc/sys/net/netfilter';

/** How full the kernel's table of connections is, of this network namespace; undefined while it tracks none. */
export function conntrackUse(): { readonly entries: number; readonly max: number } | undefined {
  try {
    const read = (name: string): number => Number(readFileSync(`${FOLDER}/${name}`, 'utf8'));
    const [entries, max] = [read('nf_conntrack_count'), read('nf_conntrack_max')];
    return Number.isInteger(entries) && max > 0 ? { entries, max } : undefined;
  } catch {
    return undefined;
  }
}
