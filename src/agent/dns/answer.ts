import { DNS_CLASS_IN, DNS_TYPE } from '../../core/dns.ts';
import type { Address } from '../../core/ip.ts';
import { type Labels, type Query, RCODE } from './query.ts';
import { addressRecord, type DnsRecord } from './records.ts';
import { type Answer, emptyAnswer } from './reply.ts';
import { type NameFacts, type Node, nodeAt, type Target, targetName, type Zone } from './zone.ts';

export interface AnswerOptions {
  readonly zones: readonly Zone[];
  /** Of every record, and of the knowledge that there is none; seconds. */
  readonly ttl: number;
  /** Where the zones are served: the address of their own names. */
  readonly address: Address;
  readonly facts: NameFacts;
}

/** RFC 8914. */
const REASON = { notReady: 14, notAuthoritative: 20 } as const;
/** Resolvers take no more (max-records-per-type of BIND); of more, each answer has others. */
const MAX_ADDRESSES = 100;
const MAX_TARGETS = 100;
const MAX_NAME = 255;
/** Not types but requests (RFC 6895): transfers, signatures. The last of them, ANY, has an answer. */
const META = { first: 249, last: 254 } as const;

/** What is said to a question: a function of the question and of the facts. */
export function answerTo({ question, edns, id }: Query, options: AnswerOptions): Answer {
  if (edns !== undefined && edns.version > 0) return emptyAnswer(RCODE.badVersion);
  const { name, type } = question;
  const zone = options.zones.find(({ apex }) => endsWith(name, apex));
  const meta = (type >= META.first && type <= META.last) || type === DNS_TYPE.opt || type === 0;
  if (zone === undefined) return emptyAnswer(RCODE.refused, REASON.notAuthoritative);
  if (question.class !== DNS_CLASS_IN || meta) return emptyAnswer(RCODE.refused);
  const below = name.slice(0, name.length - zone.apex.length);
  if (below.length === 0) return positive(apexRecords(zone, type, options), zone, options);
  if (!options.facts.isReady()) return emptyAnswer(RCODE.failure, REASON.notReady);
  const node = nodeAt(zone, below, options.facts);
  if (node === undefined) return negative(RCODE.noName, zone, options);
  const { answers, additional } = recordsOf(node, { zone, name, type, turn: id, options });
  return { ...positive(answers, zone, options), additional };
}

function endsWith(name: Labels, apex: Labels): boolean {
  const skipped = name.length - apex.length;
  return skipped >= 0 && apex.every((label, index) => name[skipped + index] === label);
}

function positive(answers: readonly DnsRecord[], zone: Zone, options: AnswerOptions): Answer {
  return answers.length === 0 ? negative(RCODE.ok, zone, options) : { ...emptyAnswer(RCODE.ok), answers };
}

/** With the record that says how long that may be remembered (RFC 2308). */
function negative(rcode: number, zone: Zone, { ttl }: AnswerOptions): Answer {
  return { ...emptyAnswer(rcode), authority: [soa(zone, ttl)] };
}

function soa({ apex }: Zone, ttl: number): DnsRecord {
  return { owner: apex, ttl, data: { type: 'soa', server: apex, contact: ['nobody', 'invalid'], minimum: ttl } };
}

/** A zone that is served by itself, as RFC 6303 does it: no other name can clash with that of a service. */
function apexRecords(zone: Zone, type: number, { ttl, address }: AnswerOptions): DnsRecord[] {
  const { apex } = zone;
  if (type === DNS_TYPE.any) return [refusal(apex, ttl)];
  const all: DnsRecord[] = [
    soa(zone, ttl),
    { owner: apex, ttl, data: { type: 'ns', name: apex } },
    addressRecord(apex, address, ttl),
  ];
  return all.filter(({ data }) => DNS_TYPE[data.type] === type);
}

/** To a question for everything (RFC 8482). */
function refusal(owner: Labels, ttl: number): DnsRecord {
  return { owner, ttl, data: { type: 'hinfo', cpu: 'RFC8482', os: '' } };
}

interface Asked {
  readonly zone: Zone;
  readonly name: Labels;
  readonly type: number;
  /** Any number: whoever takes the first of many takes another each time. */
  readonly turn: number;
  readonly options: AnswerOptions;
}

function recordsOf(node: Node, asked: Asked): Pick<Answer, 'answers' | 'additional'> {
  const { name, type, turn } = asked;
  const { ttl } = asked.options;
  if (type === DNS_TYPE.any) return { answers: [refusal(name, ttl)], additional: [] };
  if (type === DNS_TYPE.srv) return targetRecords(node.targets, asked);
  const addresses = node.addresses.filter(({ family }) => type === (family === 4 ? DNS_TYPE.a : DNS_TYPE.aaaa));
  const answers = turned(addresses, turn).slice(0, MAX_ADDRESSES);
  return { answers: answers.map((address) => addressRecord(name, address, ttl)), additional: [] };
}

function targetRecords(targets: readonly Target[], asked: Asked): Pick<Answer, 'answers' | 'additional'> {
  const { zone, name, turn } = asked;
  const { ttl, facts } = asked.options;
  const chosen = turned(targets, turn)
    .slice(0, MAX_TARGETS)
    .map((target) => ({ ...target, full: targetName(zone, target) }))
    .filter(({ full }) => full.reduce((sum, label) => sum + label.length + 1, 1) <= MAX_NAME);
  const weight = Math.max(1, Math.floor(100 / Math.max(1, chosen.length)));
  const answers = chosen.map(
    ({ full, port }): DnsRecord => ({ owner: name, ttl, data: { type: 'srv', weight, port, target: full } }),
  );
  const [first] = chosen;
  // All ports of a service that is not headless are at the same name.
  const common = first?.backend === undefined ? first : undefined;
  const shared = common === undefined ? [] : (nodeAt(zone, common.service, facts)?.addresses ?? []);
  const additional = [
    ...shared.slice(0, MAX_ADDRESSES).map((each) => addressRecord(common?.full ?? name, each, ttl)),
    ...chosen.flatMap(({ full, backend }) =>
      backend === undefined ? [] : [addressRecord(full, backend.address, ttl)],
    ),
  ];
  return { answers, additional };
}

function turned<T>(items: readonly T[], turn: number): readonly T[] {
  const start = items.length === 0 ? 0 : turn % items.length;
  return [...items.slice(start), ...items.slice(0, start)];
}
