import { readFile } from 'node:fs/promises';
import type { CheckRecord } from '../../api/doctor-types.ts';
import { Findings } from '../check.ts';

/** The part of a device that matters here. */
export interface DeviceFacts {
  readonly name: string;
  readonly role: 'external' | 'internal' | 'overlay' | 'loopback';
  readonly kind: string;
  readonly up: boolean;
}

/** Values of /proc/sys by name with slashes; undefined for one that does not exist or cannot be read. */
export type Settings = ReadonlyMap<string, number | undefined>;

const CONNTRACK = { group: 'machine', name: 'conntrack' } as const;
const SYSCTL = { group: 'machine', name: 'sysctl' } as const;
const COUNT = 'net/netfilter/nf_conntrack_count';
const MAX = 'net/netfilter/nf_conntrack_max';
const BE_LIBERAL = 'net/netfilter/nf_conntrack_tcp_be_liberal';
const FORWARD = 'net/ipv4/ip_forward';
const STRICT = 1;
/** Shares of the table. */
const NEARLY_FULL = 0.95;
const FILLING = 0.8;
/** A table of fewer is not for a server. */
const SMALL = 8192;

const rpFilter = (device: string): string => `net/ipv4/conf/${device}/rp_filter`;

/** Reads what the checks below look at. */
export async function readSettings(devices: readonly DeviceFacts[]): Promise<Settings> {
  const names = [COUNT, MAX, BE_LIBERAL, FORWARD, rpFilter('all'), ...devices.map(({ name }) => rpFilter(name))];
  return new Map(await Promise.all(names.map(async (name) => [name, await readNumber(name)] as const)));
}

async function readNumber(name: string): Promise<number | undefined> {
  try {
    const value = Number((await readFile(`/proc/sys/${name}`, 'latin1')).trim());
    return Number.isFinite(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Connection tracking: a table that is full drops every new connection, whatever the policy says. */
export function judgeConntrack(settings: Settings): CheckRecord[] {
  const findings = new Findings(CONNTRACK);
  const [count, max] = [settings.get(COUNT), settings.get(MAX)];
  if (count === undefined || max === undefined || max === 0) {
    findings.skipped('the kernel does not track connections in this network namespace yet');
    return findings.list;
  }
  const share = count / max;
  const text = `${count} of ${max} connections are tracked (${Math.floor(share * 100)} %)`;
  if (share >= NEARLY_FULL) findings.error('HST-CONNTRACK', text, { place: MAX });
  else if (share >= FILLING) findings.warning('HST-CONNTRACK', text, { place: MAX });
  else if (max < SMALL)
    findings.warning('HST-SYSCTL', `the table of tracked connections has room for ${max} only`, { place: MAX });
  else findings.ok(text);
  return findings.list;
}

/** Settings under which packets that the policy allows are lost. */
export function judgeSysctls(settings: Settings, devices: readonly DeviceFacts[]): CheckRecord[] {
  const findings = new Findings(SYSCTL);
  const all = settings.get(rpFilter('all')) ?? 0;
  // The stricter of the two counts, but loose (2) wins over strict (1).
  const strict = devices.filter(({ name }) => Math.max(all, settings.get(rpFilter(name)) ?? 0) === STRICT);
  for (const { name } of strict.filter(({ role }) => role === 'overlay'))
    findings.error(
      'HST-RP-FILTER',
      `strict on ${name}: packets from the overlay are dropped when their way back is another`,
      {
        subject: name,
        place: rpFilter(name),
        remedy: `sysctl -w net.ipv4.conf.${name}.rp_filter=2`,
      },
    );
  const ways = devices.filter(({ role, up }) => role === 'external' && up);
  const outside = strict.filter(({ role, up }) => role === 'external' && up);
  if (ways.length > 1 && outside.length > 0)
    findings.warning(
      'HST-RP-FILTER',
      `strict on ${outside.map(({ name }) => name).join(', ')}, and there are ${ways.length} ways out: packets that come in on another one than answers would leave by are dropped`,
      { place: rpFilter(outside[0]?.name ?? 'all') },
    );
  const bridges = devices.filter(({ role, kind, up }) => role === 'internal' && kind === 'bridge' && up);
  if (settings.get(FORWARD) === 0 && bridges.length > 0)
    findings.warning(
      'HST-SYSCTL',
      `packets are not forwarded, so containers on ${bridges.map(({ name }) => name).join(', ')} are cut off`,
      {
        place: FORWARD,
        remedy: 'sysctl -w net.ipv4.ip_forward=1',
      },
    );
  if (findings.list.length === 0)
    findings.ok(
      `reverse-path filter and forwarding are as they should be (tcp_be_liberal=${settings.get(BE_LIBERAL) ?? '-'})`,
    );
  return findings.list;
}
