import { MeshError } from '../core/errors.ts';
import { contains, type Prefix, parseAddress, parsePrefix, prefixOf } from '../core/ip.ts';
import type { FlowEndRecord, FlowRecord, FlowVerdict } from './flow-types.ts';
import { parseSelector } from './selector.ts';

/** Text of the parameters of `GET /v1/flows`, which are also the options of `mesh-agent monitor`. */
export interface FlowParameters {
  readonly follow?: string;
  /** Number of the newest flows that fit. */
  readonly last?: string;
  /** Milliseconds since the epoch. */
  readonly since?: string;
  readonly from?: string;
  readonly to?: string;
  readonly identity?: string;
  readonly label?: string;
  readonly port?: string;
  readonly protocol?: string;
  readonly verdict?: string;
  readonly direction?: string;
}

export interface FlowQuery {
  readonly follow: boolean;
  readonly last: number | undefined;
  readonly since: number | undefined;
  /** New connections that are allowed are wanted, while it follows. */
  readonly allowed: boolean;
  matches(flow: FlowRecord): boolean;
}

type Test = (flow: FlowRecord) => boolean;

const VERDICTS: Readonly<Record<string, FlowVerdict>> = {
  forwarded: 'FORWARDED',
  allowed: 'FORWARDED',
  dropped: 'DROPPED',
  audit: 'AUDIT',
};
const PROTOCOLS: ReadonlySet<string> = new Set(['tcp', 'udp', 'sctp', 'icmp', 'icmpv6']);
const MAX_LAST = 65_535;
const MAX_TERMS = 64;

/** Throws MeshError API-REQUEST that names the parameter and what it may be. */
export function parseFlowQuery(given: FlowParameters): FlowQuery {
  const verdicts = given.verdict === undefined ? undefined : new Set(given.verdict.split(',').map(verdictOf));
  const tests: Test[] = [];
  if (verdicts !== undefined) tests.push(({ verdict }) => verdicts.has(verdict));
  if (given.from !== undefined) tests.push(on(({ source }) => [source], endTest('from', given.from)));
  if (given.to !== undefined) tests.push(on(({ destination }) => [destination], endTest('to', given.to)));
  if (given.identity !== undefined) tests.push(on(bothEnds, identityTest(given.identity)));
  if (given.label !== undefined) tests.push(on(bothEnds, labelTest('label', given.label)));
  if (given.port !== undefined) tests.push(portTest(given.port));
  if (given.protocol !== undefined) tests.push(protocolTest(given.protocol));
  if (given.direction !== undefined) tests.push(directionTest(given.direction));
  return {
    follow: given.follow !== undefined,
    last: given.last === undefined ? undefined : numberOf('last', given.last, MAX_LAST),
    since: given.since === undefined ? undefined : numberOf('since', given.since, Number.MAX_SAFE_INTEGER),
    allowed: verdicts === undefined || verdicts.has('FORWARDED'),
    matches: (flow) => tests.every((test) => test(flow)),
  };
}

const bothEnds = ({ source, destination }: FlowRecord): FlowEndRecord[] => [source, destination];

function on(ends: (flow: FlowRecord) => FlowEndRecord[], test: (end: FlowEndRecord) => boolean): Test {
  return (flow) => ends(flow).some(test);
}

function bad(name: string, text: string, expects: string): MeshError {
  return new MeshError('API-REQUEST', `${name}: ${JSON.stringify(text.slice(0, 100))} is not ${expects}`);
}

function verdictOf(text: string): FlowVerdict {
  const word = text.trim().toLowerCase();
  const found = Object.hasOwn(VERDICTS, word) ? VERDICTS[word] : undefined;
  if (found === undefined) throw bad('verdict', text, 'one of dropped, audit, allowed (with commas between them)');
  return found;
}

/** `self`, an address or a prefix, the number of an identity, labels, or a name of a node, a service or DNS. */
function endTest(name: string, text: string): (end: FlowEndRecord) => boolean {
  if (text === 'self') return ({ self }) => self === true;
  if (/^[0-9]+$/.test(text)) return identityTest(text);
  const prefix = parsePrefix(text);
  if (prefix !== undefined) return (end) => isIn(prefix, end.address);
  const looksLikeAddress = /^[0-9./]+$/.test(text) || (/^[0-9a-f:./]+$/i.test(text) && text.split(':').length > 2);
  if (looksLikeAddress || text === '') throw bad(name, text, 'an address, a prefix, an identity, a name or labels');
  if (/[:=,]/.test(text)) return labelTest(name, text);
  return ({ node, service, names }) =>
    [node, service, node?.split('/')[1], service?.split('/')[1], ...(names ?? [])].includes(text);
}

function isIn(prefix: Prefix, text: string): boolean {
  const address = parseAddress(text);
  return (
    address !== undefined &&
    address.family === prefix.family &&
    contains(prefix, prefixOf(address, address.family === 4 ? 32 : 128))
  );
}

function identityTest(text: string): (end: FlowEndRecord) => boolean {
  const terms = text.split(',');
  const numbers = new Set(terms.map((term) => numberOf('identity', term.trim(), 0xffff_ffff)));
  return ({ identity }) => numbers.has(identity);
}

function labelTest(name: string, text: string): (end: FlowEndRecord) => boolean {
  try {
    const matches = parseSelector(text);
    return ({ labels }) => matches(labels);
  } catch (error) {
    if (error instanceof MeshError) throw bad(name, text, 'labels such as k8s:app=web,env!=test');
    throw error;
  }
}

/** Of either end: whoever looks for a service finds its answers too. */
function portTest(text: string): Test {
  const terms = text.split(',');
  if (terms.length > MAX_TERMS) throw bad('port', text, `a list of up to ${MAX_TERMS} ports`);
  const ranges = terms.map((term) => {
    const [, protocol, first, last = first] = /^(?:([a-z]+)\/)?([0-9]{1,5})(?:-([0-9]{1,5}))?$/.exec(term.trim()) ?? [];
    const [low, high] = [Number(first), Number(last)];
    const known = protocol === undefined || PROTOCOLS.has(protocol);
    if (first === undefined || !known || high > 65_535 || low > high)
      throw bad('port', term, 'a port such as 80, tcp/80 or 8000-8100');
    return { protocol, low, high };
  });
  return ({ protocol, sourcePort, destinationPort }) =>
    ranges.some(
      (range) =>
        (range.protocol === undefined || range.protocol === protocol) &&
        [sourcePort, destinationPort].some((port) => port !== undefined && port >= range.low && port <= range.high),
    );
}

function protocolTest(text: string): Test {
  const wanted = new Set(text.split(',').map((term) => term.trim().toLowerCase()));
  for (const term of wanted) {
    if (!PROTOCOLS.has(term) && !(/^[0-9]{1,3}$/.test(term) && Number(term) < 256))
      throw bad('protocol', term, 'tcp, udp, sctp, icmp, icmpv6 or a number');
  }
  return ({ protocol }) => wanted.has(protocol);
}

function directionTest(text: string): Test {
  if (text !== 'ingress' && text !== 'egress') throw bad('direction', text, 'ingress or egress');
  return ({ direction }) => direction === text;
}

function numberOf(name: string, text: string, max: number): number {
  if (!/^[0-9]{1,16}$/.test(text) || Number(text) > max) throw bad(name, text, `a number up to ${max}`);
  return Number(text);
}
