import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { until } from '../../lab/namespace.ts';
import type { Outcome, ProbeProtocol } from '../../lab/place.ts';
import { type DatapathName, Driver } from './driver.ts';
import { OPEN, type PolicySpec, type Spec } from './spec.ts';
import { FAMILIES, M, O, P, type Wire, wire } from './wire.ts';

/** `in tcp/80`: from the peer to the machine; `out udp/53`: from the machine to the peer. */
type Question = `${'in' | 'out'} ${ProbeProtocol}${'' | `/${number}`}`;
interface Case {
  readonly name: string;
  readonly spec: (family: 'v4' | 'v6') => Spec;
  readonly pass: readonly Question[];
  readonly blocked: readonly Question[];
}

const PORTS = [80, 81, 85, 90, 443, 8080];
const PEER = 70_000;

const both = (policy: PolicySpec): Pick<Spec, 'ingress' | 'egress'> => ({ ingress: policy, egress: policy });
const peerIs = (identity: number): Pick<Spec, 'hosts'> => ({ hosts: { [P.v4]: identity, [P.v6]: identity } });
const icmp = (family: 'v4' | 'v6'): string => (family === 'v4' ? 'icmp/8' : 'icmpv6/128');

const CASES: readonly Case[] = [
  {
    name: 'an exact port',
    spec: () => ({ ...peerIs(PEER), ...both({ of: { [PEER]: ['allow tcp/80'] } }) }),
    pass: ['in tcp/80', 'out tcp/80'],
    blocked: ['in tcp/81', 'out tcp/81', 'in udp/80', 'out udp/80', 'in icmp', 'out icmp'],
  },
  {
    name: 'an explicit denial within an allowed protocol',
    spec: () => ({ ...peerIs(PEER), ...both({ of: { [PEER]: ['deny tcp/80', 'allow tcp'] } }) }),
    pass: ['in tcp/81', 'out tcp/81'],
    blocked: ['in tcp/80', 'out tcp/80', 'in udp/80', 'out udp/80'],
  },
  {
    name: 'a range, with an exact port of another verdict in it',
    spec: () => ({ ...peerIs(PEER), ...both({ of: { [PEER]: ['allow udp/80-90', 'deny udp/85'] } }) }),
    pass: ['in udp/80', 'in udp/90', 'out udp/81'],
    blocked: ['in udp/85', 'out udp/85', 'in udp/443', 'out tcp/80'],
  },
  {
    name: 'a range of all ports but the lowest',
    spec: () => ({ ...peerIs(PEER), ...both({ of: { [PEER]: ['allow tcp/81-65535'] } }) }),
    pass: ['in tcp/81', 'out tcp/8080'],
    blocked: ['in tcp/80', 'out tcp/80'],
  },
  {
    name: 'a whole protocol',
    spec: () => ({ ...peerIs(PEER), ...both({ of: { [PEER]: ['allow udp'] } }) }),
    pass: ['in udp/80', 'out udp/443'],
    blocked: ['in tcp/80', 'out tcp/80', 'in icmp', 'out icmp'],
  },
  {
    name: 'an ICMP type',
    spec: (family) => ({ ...peerIs(PEER), ...both({ of: { [PEER]: [`allow ${icmp(family)}`] } }) }),
    pass: ['in icmp', 'out icmp'],
    blocked: ['in tcp/80', 'out udp/80'],
  },
  {
    name: 'another ICMP type',
    spec: () => ({ ...peerIs(PEER), ...both({ of: { [PEER]: ['allow icmp/13', 'allow icmpv6/144', 'allow tcp'] } }) }),
    pass: ['in tcp/80'],
    blocked: ['in icmp', 'out icmp'],
  },
  {
    name: 'every protocol',
    spec: () => ({ ...peerIs(PEER), ...both({ of: { [PEER]: ['allow any'] } }) }),
    pass: ['in tcp/80', 'out udp/80', 'in icmp', 'out icmp'],
    blocked: [],
  },
  {
    name: 'a denial of every protocol with an allowed port',
    spec: () => ({ ...peerIs(PEER), ...both({ of: { [PEER]: ['allow tcp/80', 'deny any'] }, others: ['allow any'] }) }),
    pass: ['in tcp/80', 'out tcp/80'],
    blocked: ['in tcp/81', 'out icmp', 'in udp/80'],
  },
  {
    name: 'default deny in one direction leaves the other open',
    spec: () => ({ ...peerIs(PEER), ingress: {}, egress: OPEN }),
    pass: ['out tcp/80', 'out udp/80', 'out icmp'],
    blocked: ['in tcp/80', 'in udp/80', 'in icmp'],
  },
  {
    name: 'no policy',
    spec: () => ({ ...peerIs(PEER), ...both(OPEN) }),
    pass: ['in tcp/80', 'out tcp/80', 'in udp/80', 'out icmp'],
    blocked: [],
  },
  {
    name: 'denials without default deny',
    spec: () => ({ ...peerIs(PEER), ...both({ defaultDeny: false, of: { [PEER]: ['deny tcp/80'] } }) }),
    pass: ['in tcp/81', 'out udp/80', 'in icmp'],
    blocked: ['in tcp/80', 'out tcp/80'],
  },
  {
    name: 'an unknown identity falls to the rows of all others',
    spec: () => ({ ...peerIs(4_000_000), ...both({ others: ['allow tcp/443'], of: { [PEER]: ['allow any'] } }) }),
    pass: ['in tcp/443', 'out tcp/443'],
    blocked: ['in tcp/80', 'out tcp/80'],
  },
  {
    name: 'a number that could be taken for a class is nobody',
    spec: () => ({ ...peerIs(0x8000_0001), ...both({ of: { [PEER]: ['allow any'] } }) }),
    pass: [],
    blocked: ['in tcp/80', 'out tcp/80', 'in icmp'],
  },
  {
    name: 'an unknown address is the world, with one family',
    spec: () => both({ of: { 2: ['allow tcp/80'], 9: ['allow any'], 10: ['allow any'] } }),
    pass: ['in tcp/80', 'out tcp/80'],
    blocked: ['in tcp/81', 'out udp/80'],
  },
  {
    name: 'an unknown address is the world of its family, with two families',
    spec: (family) => ({
      dualStack: true,
      ...both({
        of: {
          2: ['allow any'],
          [family === 'v4' ? 9 : 10]: ['allow tcp/80'],
          [family === 'v4' ? 10 : 9]: ['allow any'],
        },
      }),
    }),
    pass: ['in tcp/80', 'out tcp/80'],
    blocked: ['in tcp/81', 'out udp/80'],
  },
  {
    name: 'of nested prefixes the longest wins, whatever their order',
    spec: () => ({
      prefixes: {
        '10.77.0.0/30': 501,
        '10.0.0.0/8': 500,
        'fd77::/126': 501,
        'fd00::/8': 500,
        '0.0.0.0/0': 499,
        '::/0': 499,
      },
      ...both({ of: { 501: ['allow tcp/80'], 500: ['allow any'], 499: ['allow any'] } }),
    }),
    pass: ['in tcp/80', 'out tcp/80'],
    blocked: ['in tcp/81', 'out udp/80'],
  },
  {
    name: 'a prefix of no length is everybody',
    spec: () => ({ prefixes: { '0.0.0.0/0': 500, '::/0': 500 }, ...both({ of: { 500: ['allow tcp/80'] } }) }),
    pass: ['in tcp/80', 'out tcp/80'],
    blocked: ['in tcp/81'],
  },
  {
    name: 'a single address wins over every prefix, also one of full length',
    spec: () => ({
      ...peerIs(PEER),
      prefixes: { '10.77.0.2/32': 500, 'fd77::2/128': 500, '10.0.0.0/8': 500 },
      ...both({ of: { [PEER]: ['allow tcp/80'], 500: ['allow any'] } }),
    }),
    pass: ['in tcp/80', 'out tcp/80'],
    blocked: ['in tcp/81', 'out udp/80'],
  },
  {
    name: 'failsafe ports pass whatever the policy says',
    spec: () => ({
      failsafe: { ingress: ['tcp/80', 'udp/443'], egress: ['tcp/81'] },
      ...both({ others: ['deny any'] }),
    }),
    pass: ['in tcp/80', 'in udp/443', 'out tcp/81'],
    blocked: ['in tcp/81', 'in udp/80', 'out tcp/80', 'out udp/443'],
  },
  {
    name: 'a port that is exempt in one protocol is judged in the others',
    spec: () => ({
      failsafe: { ingress: ['udp/443'], egress: ['udp/443'] },
      stores: [`${O.v4} 8080`, `${O.v6} 8080`],
      ...peerIs(PEER),
      ...both({ of: { [PEER]: ['allow tcp/443', 'allow tcp/8080', 'deny udp/8080'] } }),
    }),
    pass: ['in tcp/443', 'out tcp/443', 'in tcp/8080', 'out tcp/8080', 'in udp/443', 'out udp/443'],
    blocked: ['in tcp/80', 'out tcp/80', 'in udp/8080', 'out udp/8080'],
  },
  {
    name: 'the stores are reached whatever the policy says',
    spec: () => ({ stores: [`${P.v4} 443`, `${P.v6} 443`], ...both({ others: ['deny any'] }) }),
    pass: ['out tcp/443'],
    blocked: ['out tcp/80', 'out udp/443', 'in tcp/443'],
  },
  {
    name: 'an audited denial passes',
    spec: () => ({ ...peerIs(PEER), ...both({ of: { [PEER]: ['deny tcp/80 audit', 'allow udp'] } }) }),
    pass: ['in tcp/80', 'out tcp/80', 'in udp/80'],
    blocked: ['in tcp/81', 'out tcp/81'],
  },
  {
    name: 'nothing is denied while the machine is audited',
    spec: () => ({ ...peerIs(PEER), audit: true, ...both({ of: { [PEER]: ['deny tcp/80'] } }) }),
    pass: ['in tcp/80', 'out tcp/80', 'in tcp/81', 'out udp/80', 'in icmp'],
    blocked: [],
  },
  {
    name: 'devices that are not external are not judged',
    spec: () => ({ ...peerIs(PEER), devices: ['eth1', 'eth-weird.é"\\', 'a-name-that-is-far-too-long'], ...both({}) }),
    pass: ['in tcp/80', 'out tcp/80'],
    blocked: [],
  },
];

/** Verdicts by real packets, both directions and families: the same for every data path. */
export function verdictSuite(name: DatapathName): void {
  let lab: Wire;
  let driver: Driver;

  before(async () => {
    lab = await wire('verdict', { tcp: PORTS, udp: PORTS });
    driver = await Driver.start(name, lab.machine.namespace);
  });
  after(async () => {
    await driver?.close();
    await lab?.close();
  });

  const ask = async (question: Question, family: 'v4' | 'v6', timeoutMs: number): Promise<Outcome> => {
    const [direction, what = ''] = question.split(' ');
    const [protocol, port] = what.split('/');
    const [from, to] = direction === 'in' ? [lab.peer, M[family]] : [lab.machine, P[family]];
    return from.probe({ protocol: protocol as ProbeProtocol, to, port: Number(port ?? 0), timeoutMs });
  };

  for (const { name: what, spec, pass, blocked } of CASES) {
    for (const family of FAMILIES) {
      test(`${family}: ${what}`, async () => {
        await driver.apply(spec(family));
        await Promise.all([
          ...pass.map(async (question) => assert.equal(await ask(question, family, 3000), 'pass', question)),
          ...blocked.map(async (question) => assert.equal(await ask(question, family, 250), 'blocked', question)),
        ]);
      });
    }
  }

  test('denials are counted by direction, those of rows and those that no row matched', async () => {
    await driver.apply({ ...peerIs(PEER), ...both({ of: { [PEER]: ['deny tcp/80'] } }) });
    const { denied: start } = await driver.status();
    await Promise.all([ask('in tcp/80', 'v4', 150), ask('in udp/81', 'v4', 150), ask('out tcp/80', 'v6', 150)]);
    const rows = (await driver.policy()).filter(({ first }) => first === 80);
    assert.deepEqual(
      rows.map(({ direction, verdict, packets }) => [direction, verdict, packets > 0]),
      [
        ['ingress', 'deny', true],
        ['egress', 'deny', true],
      ],
    );
    await until('the counters are read', async () => {
      const { denied } = await driver.status();
      return denied.ingress.packets >= start.ingress.packets + 2 && denied.egress.packets > start.egress.packets;
    });
    // A row that goes takes its counter along, but not what it had counted.
    const { denied } = await driver.status();
    await driver.apply({ ...peerIs(PEER), ...both(OPEN) });
    await ask('in tcp/80', 'v4', 1000);
    assert.ok((await driver.status()).denied.ingress.packets >= denied.ingress.packets);
  });

  test('audited denials are counted and shown as denials', async () => {
    await driver.apply({ ...peerIs(PEER), audit: true, ...both({ of: { [PEER]: ['deny tcp/80'] } }) });
    const { denied: start } = await driver.status();
    assert.equal(await ask('in tcp/80', 'v4', 3000), 'pass');
    assert.equal(await ask('out tcp/81', 'v4', 3000), 'pass');
    await until('the counters are read', async () => {
      const { denied } = await driver.status();
      return denied.ingress.packets > start.ingress.packets && denied.egress.packets > start.egress.packets;
    });
    const row = (await driver.policy()).find(({ direction, first }) => direction === 'ingress' && first === 80);
    assert.deepEqual([row?.verdict, row?.audit, row?.identities], ['deny', true, [PEER]]);
  });

  test('the second address of the peer is another peer', async () => {
    await driver.apply({ hosts: { [O.v4]: PEER }, ...both({ of: { [PEER]: ['allow any'] } }) });
    assert.equal(await lab.machine.probe({ protocol: 'tcp', to: O.v4, port: 80, timeoutMs: 3000 }), 'pass');
    assert.equal(await lab.machine.probe({ protocol: 'tcp', to: P.v4, port: 80, timeoutMs: 250 }), 'blocked');
  });
}
