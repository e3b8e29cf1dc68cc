import type { CheckRecord } from '../../api/doctor-types.ts';
import { type Address, formatAddress } from '../../core/ip.ts';
import type { ForeignChain, ForeignRule, ForeignRules } from '../../datapath/nft/foreign.ts';
import type { AddressMatch, RuleShape } from '../../datapath/nft/foreign-rule.ts';
import { Findings } from '../check.ts';

/** Packets that must pass for the agent to do its work. */
export interface NeededFlow {
  /** `tcp/2379 to 192.168.100.21`; how it is named to people. */
  readonly what: string;
  readonly protocol: 6 | 17;
  readonly port: number;
  /** Of the other side; undefined for any. */
  readonly peer?: Address;
  /** Who has the port: the other side, this machine, or both (the overlay). */
  readonly portAt: 'peer' | 'here' | 'both';
  /** Cluster of the store, for what follows from it. */
  readonly subject?: string;
}

const GROUP = { group: 'machine', name: 'foreign-rules' } as const;
const EXAMPLES = 3;
const HERE_IN = new Set(['ingress', 'prerouting', 'input']);
const HERE_OUT = new Set(['output', 'postrouting']);

/** What the packet filter of others (ufw, firewalld, Docker, scripts) does to the packets that the agent needs. */
export function judgeForeignRules(foreign: ForeignRules, flows: readonly NeededFlow[]): CheckRecord[] {
  const findings = new Findings(GROUP);
  let bad = 0;
  for (const flow of flows) {
    const hit = suspectsOf(foreign, flow).find(({ sure }) => sure);
    if (hit === undefined) continue;
    bad++;
    findings.error('HST-FIREWALL', `${flow.what}: ${hit.text}`, {
      ...(flow.subject !== undefined && { subject: flow.subject }),
      place: hit.place,
    });
  }
  const beside = foreign.rules.filter(
    ({ effect, chain }) => effect === 'notrack' || (effect === 'offload' && chain.hook === 'forward'),
  );
  for (const rule of beside.slice(0, EXAMPLES)) {
    bad++;
    const what =
      rule.effect === 'notrack' ? 'keeps packets out of connection tracking' : 'sends flows past the packet filter';
    findings.warning('HST-BYPASS', `a rule ${what}, so that policy cannot follow their connections`, {
      place: placeOf(rule),
    });
  }
  if (bad === 0) findings.ok(summary(foreign));
  return findings.list;
}

/** A rule, or the end of a chain, that does not let a flow pass; not `sure` when it may not come to that. */
export interface Suspect {
  readonly text: string;
  readonly place: string;
  readonly sure: boolean;
  /** It sees what this machine sends; else what comes back, which ordinary firewalls know by its connection. */
  readonly out: boolean;
}

/** Who may keep a flow from passing, in either direction, the sure ones first. */
export function suspectsOf({ chains, rules }: ForeignRules, flow: NeededFlow): Suspect[] {
  const found: Suspect[] = [];
  for (const rule of rules) {
    if (rule.effect !== 'drop' && rule.effect !== 'reject') continue;
    const match = matches(rule, flow);
    if (match === 'no') continue;
    // Something before it may let the flow pass: only who saw that it does not knows.
    const sure = match === 'yes' && !rule.conditional;
    const counted = rule.packets === undefined ? '' : `, ${rule.packets} packets so far`;
    found.push({
      text: `a rule of another program ${rule.effect}s it${counted}`,
      place: placeOf(rule),
      sure,
      out: HERE_OUT.has(rule.chain.hook),
    });
  }
  for (const chain of chains) {
    if (chain.policy !== 'drop' || directionOf(chain, flow) === undefined) continue;
    // Its other rules may accept it.
    const text = 'a chain of another program drops what its rules do not accept';
    found.push({ text, place: chainText(chain), sure: false, out: HERE_OUT.has(chain.hook) });
  }
  return found.sort((a, b) => Number(b.sure) - Number(a.sure));
}

/** `out`: the chain sees what this machine sends. */
function directionOf(chain: ForeignChain, { peer }: NeededFlow): 'in' | 'out' | undefined {
  if (chain.family === 'ip' && peer?.family === 6) return undefined;
  if (chain.family === 'ip6' && peer?.family === 4) return undefined;
  if (chain.family === 'arp' || chain.family === 'bridge') return undefined;
  return HERE_IN.has(chain.hook) ? 'in' : HERE_OUT.has(chain.hook) ? 'out' : undefined;
}

function matches(rule: ForeignRule, flow: NeededFlow): 'yes' | 'maybe' | 'no' {
  const direction = directionOf(rule.chain, flow);
  if (direction === undefined) return 'no';
  if (rule.protocol !== undefined && rule.protocol !== flow.protocol) return 'no';
  const [far, near] = direction === 'out' ? [rule.destination, rule.source] : [rule.source, rule.destination];
  let sure = rule.unknown === 0 && rule.device === undefined && near === undefined;
  if (far !== undefined) {
    if (flow.peer === undefined) sure = false;
    else if (!covers(far, flow.peer)) return 'no';
  }
  const [farPorts, nearPorts] =
    direction === 'out' ? [rule.destinationPorts, rule.sourcePorts] : [rule.sourcePorts, rule.destinationPorts];
  for (const [ports, fixed] of [
    [farPorts, flow.portAt === 'peer'],
    [nearPorts, flow.portAt === 'here'],
  ] as const) {
    if (ports === undefined) continue;
    if (flow.portAt === 'both') {
      // The overlay chooses its source port, and sends to the same port everywhere.
      const isDestination = ports === rule.destinationPorts;
      if (!isDestination) sure = false;
      else if (!within(ports, flow.port)) return 'no';
    } else if (!fixed) sure = false;
    else if (!within(ports, flow.port)) return 'no';
  }
  return sure ? 'yes' : 'maybe';
}

function within([first, last]: readonly [number, number], port: number): boolean {
  return port >= first && port <= last;
}

function covers({ bytes, mask, family }: AddressMatch, address: Address): boolean {
  if (family !== address.family) return false;
  const own = Buffer.alloc(address.words.length * 4);
  for (const [index, word] of address.words.entries()) own.writeUInt32BE(word >>> 0, index * 4);
  return bytes.every((byte, index) => ((own[index] ?? 0) & (mask?.[index] ?? 0xff)) === byte);
}

function placeOf(rule: ForeignRule): string {
  const through = rule.inChain === rule.chain.name ? '' : ` by way of chain ${rule.inChain}`;
  return `${chainText(rule.chain)}${through}: ${shapeText(rule)}`;
}

function chainText({ family, table, name, hook, priority }: ForeignChain): string {
  return `table ${family} ${table}, chain ${name} (${hook}, priority ${priority})`;
}

function shapeText(rule: RuleShape): string {
  const parts = [
    rule.protocol === undefined ? undefined : `protocol ${rule.protocol}`,
    portsText('sport', rule.sourcePorts),
    portsText('dport', rule.destinationPorts),
    rule.device === undefined ? undefined : `device ${rule.device}`,
    rule.unknown === 0 ? undefined : `${rule.unknown} more conditions`,
  ].filter((part) => part !== undefined);
  return [...parts, rule.effect].join(' ');
}

function portsText(name: string, ports: readonly [number, number] | undefined): string | undefined {
  if (ports === undefined) return undefined;
  return ports[0] === ports[1] ? `${name} ${ports[0]}` : `${name} ${ports[0]}-${ports[1]}`;
}

function summary({ chains, more }: ForeignRules): string {
  if (chains.length === 0) return 'no other program has rules in the packet filter';
  const strict = chains.filter(({ policy }) => policy === 'drop').map(chainText);
  const drops = strict.length === 0 ? '' : `; by default these drop: ${strict.slice(0, EXAMPLES).join('; ')}`;
  const rest = more ? '; there are more rules than were read' : '';
  return `${chains.length} chain${chains.length === 1 ? '' : 's'} of other programs beside ours; none drops what the agent needs${drops}${rest}`;
}

export function addressFlow(address: Address, port: number, subject?: string): NeededFlow {
  const what = `tcp/${port} to ${formatAddress(address)}`;
  return { what, protocol: 6, port, peer: address, portAt: 'peer', ...(subject !== undefined && { subject }) };
}
