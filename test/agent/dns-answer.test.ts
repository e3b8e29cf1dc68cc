import assert from 'node:assert/strict';
import { test } from 'node:test';
import { answerTo } from '../../src/agent/dns/answer.ts';
import { parseQuery } from '../../src/agent/dns/query.ts';
import { writeReply } from '../../src/agent/dns/reply.ts';
import type { NameFacts, Zone } from '../../src/agent/dns/zone.ts';
import { DNS_TYPE } from '../../src/core/dns.ts';
import { parseAddress } from '../../src/core/ip.ts';
import { ServiceModel } from '../../src/service/model.ts';
import { DEFAULT_SETTINGS } from '../../src/service/settings.ts';
import { type AskedQuestion, dnsQuery, readReply, type SeenReply } from '../lab/dns-message.ts';
import { addressFacts, service } from '../service/build.ts';

const ZONES: readonly Zone[] = [
  { kind: 'cluster', apex: ['svc', 'cluster', 'local'] },
  { kind: 'clusterset', apex: ['svc', 'clusterset', 'local'] },
];

const many = Object.fromEntries(
  Array.from({ length: 3000 }, (_, index) => [`10.9.${index >> 8}.${index & 255}`, 'x=TCP/1']),
);
const SERVICES = [
  service('cluster-a', 'prod/api', {
    frontends: { '10.96.0.10': 'http=TCP/80 dns=UDP/53', 'fd00:96::10': 'http=TCP/80' },
    backends: { '10.1.0.1': 'http=TCP/8080' },
  }),
  service('cluster-b', 'prod/api', { frontends: { '10.97.0.10': 'http=TCP/8080' } }),
  service('cluster-a', 'prod/plain', { frontends: { '10.96.0.11': 'TCP/80' } }),
  service('cluster-a', 'prod/db', { backends: { '10.1.0.1': 'pg=TCP/5432', 'fd00:1::1': 'pg=TCP/5432' } }),
  service('cluster-b', 'prod/db', { backends: { '10.2.0.1': 'pg=TCP/5433' } }),
  service('cluster-a', 'prod/set', {
    backends: { '10.1.1.1': 'pg=TCP/5432', '10.1.1.2': 'pg=TCP/5432' },
    hostnames: { '10.1.1.1': 'set-0' },
  }),
  service('cluster-b', 'prod/set', { backends: { '10.2.1.1': 'pg=TCP/5432' }, hostnames: { '10.2.1.1': 'set-0' } }),
  service('cluster-a', 'prod/idle', {}),
  service('cluster-a', 'home/own', { frontends: { '10.96.0.12': 'http=TCP/80' }, global: false }),
  service('cluster-a', 'prod/many', { backends: many }),
  service('cluster-a', 'prod/odd.name', { frontends: { '10.96.0.13': 'TCP/80' } }),
];

function factsOf(ready = true): NameFacts {
  const model = new ServiceModel(addressFacts(new Set()), () => 1);
  model.configure(DEFAULT_SETTINGS);
  model.setJoined('cluster-a');
  for (const fact of SERVICES) model.setService(fact.cluster, `${fact.namespace}/${fact.name}`, fact);
  model.settle();
  return {
    isReady: () => ready,
    named: (name) => model.named(name),
    hasNamespace: (namespace, kind) => model.hasNamespace(namespace, kind),
  };
}

const FACTS = factsOf();
const ADDRESS = parseAddress('127.0.0.153') ?? assert.fail();

function replyTo(asked: AskedQuestion, options: { transport?: 'udp' | 'tcp'; facts?: NameFacts } = {}): Buffer {
  const parsed = parseQuery(dnsQuery(asked));
  if (parsed.kind !== 'query') assert.fail(`${asked.name}: ${parsed.kind}`);
  const answer = answerTo(parsed.query, { zones: ZONES, ttl: 5, address: ADDRESS, facts: options.facts ?? FACTS });
  return writeReply(parsed.query, answer, options.transport ?? 'udp');
}

const ask = (asked: AskedQuestion, options: Parameters<typeof replyTo>[1] = {}): SeenReply =>
  readReply(replyTo(asked, options));
const type = (name: keyof typeof DNS_TYPE): number => DNS_TYPE[name];

const C = 'svc.cluster.local';
const S = 'svc.clusterset.local';
const NODATA = 'no data';
const NXDOMAIN = 'no name';

/** Question, and the records that answer it, or what the absence of any means. */
const TABLE: readonly (readonly [
  string,
  keyof typeof DNS_TYPE,
  readonly string[] | typeof NODATA | typeof NXDOMAIN,
])[] = [
  [`api.prod.${C}`, 'a', ['10.96.0.10']],
  [`api.prod.${C}`, 'aaaa', ['fd00:96::10']],
  [`api.prod.${S}`, 'a', ['10.96.0.10']],
  [`api.prod.${C}`, 'srv', NODATA],
  [`api.prod.${C}`, 'soa', NODATA],
  [`_http._tcp.api.prod.${C}`, 'srv', [`0 100 80 api.prod.${C}`]],
  [`_http._tcp.api.prod.${S}`, 'srv', [`0 100 80 api.prod.${S}`]],
  [`_dns._udp.api.prod.${C}`, 'srv', [`0 100 53 api.prod.${C}`]],
  [`_http._tcp.api.prod.${C}`, 'a', NODATA],
  [`_tcp.api.prod.${C}`, 'srv', NODATA],
  [`_dns._tcp.api.prod.${C}`, 'srv', NXDOMAIN],
  [`_sctp.api.prod.${C}`, 'srv', NXDOMAIN],
  [`http.tcp.api.prod.${C}`, 'srv', NXDOMAIN],
  [`x._http._tcp.api.prod.${C}`, 'srv', NXDOMAIN],
  [`plain.prod.${C}`, 'a', ['10.96.0.11']],
  [`plain.prod.${C}`, 'aaaa', NODATA],
  [`_tcp.plain.prod.${C}`, 'srv', NXDOMAIN],
  [`10-96-0-10.api.prod.${C}`, 'a', NXDOMAIN],
  [`idle.prod.${C}`, 'a', NODATA],
  [`nobody.prod.${C}`, 'a', NXDOMAIN],
  [`prod.${C}`, 'a', NODATA],
  [`nowhere.${C}`, 'a', NXDOMAIN],
  [`api.nowhere.${C}`, 'a', NXDOMAIN],
  [`own.home.${C}`, 'a', ['10.96.0.12']],
  [`own.home.${S}`, 'a', NXDOMAIN],
  [`home.${C}`, 'a', NODATA],
  [`home.${S}`, 'a', NXDOMAIN],
  [`db.prod.${C}`, 'aaaa', ['fd00:1::1']],
  [`10-1-0-1.db.prod.${C}`, 'a', ['10.1.0.1']],
  [`fd00-1--1.db.prod.${C}`, 'aaaa', ['fd00:1::1']],
  [`fd00-1--1.db.prod.${C}`, 'a', NODATA],
  [`10-1-0-2.db.prod.${C}`, 'a', NXDOMAIN],
  [`10-1-0-1.cluster-a.db.prod.${C}`, 'a', NXDOMAIN],
  [`10-1-0-1.db.prod.${S}`, 'a', NXDOMAIN],
  [`cluster-a.db.prod.${S}`, 'a', NODATA],
  [`10-2-0-1.cluster-b.db.prod.${S}`, 'a', ['10.2.0.1']],
  [`10-2-0-1.cluster-a.db.prod.${S}`, 'a', NXDOMAIN],
  [`set-0.set.prod.${C}`, 'a', ['10.1.1.1', '10.2.1.1']],
  [`set-1.set.prod.${C}`, 'a', NXDOMAIN],
  [`10-1-1-1.set.prod.${C}`, 'a', ['10.1.1.1']],
  [`set-0.cluster-b.set.prod.${S}`, 'a', ['10.2.1.1']],
  [`set-0.set.prod.${S}`, 'a', NXDOMAIN],
  [C, 'ns', [C]],
  [C, 'soa', [`${C} nobody.invalid 5`]],
  [C, 'a', ['127.0.0.153']],
  [C, 'aaaa', NODATA],
  [`odd.name.prod.${C}`, 'a', NXDOMAIN],
  [`a/pi.prod.${C}`, 'a', NXDOMAIN],
  [`\x00\xff.prod.${C}`, 'a', NXDOMAIN],
  [`api.prod.${C}`, 'any', ['RFC8482']],
  [C, 'any', ['RFC8482']],
  [`nobody.prod.${C}`, 'any', NXDOMAIN],
];

test('every question has its answer, and what is not there is told apart from what has no such record', () => {
  for (const [name, kind, wanted] of TABLE) {
    const seen = ask({ name, type: type(kind) });
    const data = seen.answers.map((text) => text.split(' ').slice(3).join(' '));
    const apex = name.endsWith(S) ? S : C;
    const what = `${name} ${kind}`;
    assert.equal(seen.authoritative, true, what);
    assert.equal(seen.rcode, wanted === NXDOMAIN ? 3 : 0, what);
    assert.deepEqual(data, typeof wanted === 'string' ? [] : wanted, what);
    const soa = [`${apex} 5 SOA ${apex} nobody.invalid 5`];
    assert.deepEqual(seen.authority, typeof wanted === 'string' ? soa : [], what);
    assert.deepEqual([seen.id, seen.truncated, seen.recursion.available], [0x1234, false, false], what);
  }
});

test('a headless service has all backends that serve, turned round from question to question', () => {
  const first = new Set<string | undefined>();
  for (let id = 0; id < 2; id++) {
    const { answers } = ask({ name: `db.prod.${C}`, type: type('a'), id });
    assert.deepEqual([...answers].sort(), [`db.prod.${C} 5 A 10.1.0.1`, `db.prod.${C} 5 A 10.2.0.1`]);
    first.add(answers[0]);
  }
  assert.equal(first.size, 2);
});

test('targets come with their addresses, each backend of a headless service with its own port', () => {
  const one = ask({ name: `_http._tcp.api.prod.${C}`, type: type('srv') });
  assert.deepEqual(one.additional, [`api.prod.${C} 5 A 10.96.0.10`, `api.prod.${C} 5 AAAA fd00:96::10`]);
  const all = ask({ name: `_pg._tcp.db.prod.${S}`, type: type('srv'), id: 0 });
  assert.deepEqual(
    all.answers.map((text) => text.split(' ').slice(3).join(' ')),
    [
      `0 33 5432 10-1-0-1.cluster-a.db.prod.${S}`,
      `0 33 5432 fd00-1--1.cluster-a.db.prod.${S}`,
      `0 33 5433 10-2-0-1.cluster-b.db.prod.${S}`,
    ],
  );
  const set = ask({ name: `_pg._tcp.set.prod.${C}`, type: type('srv'), id: 0 });
  assert.deepEqual(
    set.answers.map((text) => text.split(' ').at(-1)),
    [`set-0.set.prod.${C}`, `10-1-1-2.set.prod.${C}`, `set-0.set.prod.${C}`],
  );
  assert.equal(all.additional[2], `10-2-0-1.cluster-b.db.prod.${S} 5 A 10.2.0.1`);
});

test('the question comes back to the byte, in whatever case it was asked', () => {
  const asked = { name: `aPi.PROD.Svc.cLuSteR.LOCAL`, type: type('a') };
  const reply = replyTo(asked);
  const query = dnsQuery(asked);
  assert.deepEqual(reply.subarray(12, query.length), query.subarray(12));
  // The record's owner is a pointer to it.
  assert.equal(reply.readUInt16BE(query.length), 0xc00c);
  assert.equal(readReply(reply).answers.length, 1);
});

test('outside of the zones, in another class, and for transfers it is refused, with the reason where it can be told', () => {
  for (const asked of [
    { name: 'www.example.com', type: 1 },
    { name: 'cluster.local', type: 1 },
    { name: 'xsvc.cluster.local', type: 1 },
    { name: '', type: 2 },
    { name: `api.prod.${C}`, type: 1, class: 3 },
    { name: C, type: 252 },
    { name: C, type: 251 },
    { name: C, type: 250 },
    { name: C, type: 41 },
  ]) {
    const seen = ask(asked);
    assert.deepEqual([seen.rcode, seen.authoritative, seen.answers.length], [5, false, 0], JSON.stringify(asked));
    assert.equal(seen.authority.length, 0);
  }
  assert.equal(ask({ name: 'example.com', type: 1, edns: { size: 1232 } }).edns?.reason, 20);
});

test('until everything was seen once nothing is denied that may be there', () => {
  const facts = factsOf(false);
  const seen = ask({ name: `nobody.prod.${C}`, type: 1, edns: { size: 1232 } }, { facts });
  assert.deepEqual([seen.rcode, seen.authoritative, seen.edns?.reason], [2, false, 14]);
  assert.equal(ask({ name: C, type: type('soa') }, { facts }).rcode, 0, 'the zone itself is there');
});

test('EDNS is answered with EDNS, an unknown version with what we know, and none with none', () => {
  assert.equal(ask({ name: `api.prod.${C}`, type: 1 }).edns, undefined);
  const seen = ask({ name: `api.prod.${C}`, type: 1, edns: { size: 1232, dnssecOk: true } });
  assert.deepEqual([seen.rcode, seen.edns?.size, seen.edns?.dnssecOk], [0, 4096, true]);
  const newer = ask({ name: `api.prod.${C}`, type: 1, edns: { size: 1232, version: 1 } });
  assert.deepEqual([newer.rcode, newer.answers.length], [16, 0]);
});

test('what does not fit is cut as a whole, marked, and whole over TCP', () => {
  const asked = { name: `many.prod.${C}`, type: 1 };
  for (const [edns, limit] of [
    [undefined, 512],
    [{ size: 100 }, 512],
    [{ size: 1232 }, 1232],
  ] as const) {
    const reply = replyTo({ ...asked, ...(edns !== undefined && { edns }) });
    const seen = readReply(reply);
    assert.deepEqual([seen.truncated, seen.answers.length, seen.edns === undefined], [true, 0, edns === undefined]);
    assert.ok(reply.length <= limit);
  }
  for (const whole of [ask(asked, { transport: 'tcp' }), ask({ ...asked, edns: { size: 65_535 } })])
    assert.deepEqual([whole.truncated, new Set(whole.answers).size], [false, 100]);
});

test('of more backends than an answer may have, every one has its turn', () => {
  const seen = new Set<string>();
  for (let id = 0; id < 1000; id += 50)
    for (const text of ask({ name: `many.prod.${C}`, type: 1, id }, { transport: 'tcp' }).answers) seen.add(text);
  assert.equal(seen.size, 1000, 'the share of this machine');
});

test('a message is never longer than it may be, however long the names', () => {
  const name = `_x._tcp.many.prod.${C}`;
  for (const size of [512, 700, 900, 1232, 4096, 65_535]) {
    const reply = replyTo({ name, type: type('srv'), edns: { size } });
    assert.ok(reply.length <= Math.min(size, 4096));
    readReply(reply);
  }
  const seen = ask({ name, type: type('srv') }, { transport: 'tcp' });
  assert.deepEqual([seen.answers.length, seen.additional.length], [100, 100]);
  const label = 'a'.repeat(63);
  const long = `${label}.${label}.${label}.${'b'.repeat(41)}.${C}`;
  assert.equal(ask({ name: long, type: 1 }).authority.length, 1);
});

test('additional addresses that do not fit are left out, and nothing else is', () => {
  const seen = ask({ name: `_pg._tcp.db.prod.${S}`, type: type('srv'), edns: { size: 512 } });
  assert.deepEqual([seen.truncated, seen.answers.length], [false, 3]);
});
