import fc from 'fast-check';
import { address } from '../policy/build.ts';
import { type ReferenceFlow, type ReferencePeer, type ReferenceWorld, referenceVerdict } from '../policy/reference.ts';
import {
  ADDRESSES,
  settings as anySettings,
  DNS,
  flow,
  identityLabels,
  policyObject,
  SUBJECT,
  SUBJECT_PORTS,
  textOf,
} from '../policy/scenario.ts';
import type { VectorCase, VectorEndpoint, VectorFlow } from './vector.ts';

const GROUPS = { partners: ['192.0.2.0/25', '10.1.0.0/16'] };
const FIRST_IDENTITY = 0x1_0001;

/** Random cases whose verdicts are those of the slow reference evaluator; the same ones every time. */
export function randomCases(count: number): VectorCase[] {
  return fc.sample(anyCase, { numRuns: count, seed: 20_261_125 });
}

const anyCase: fc.Arbitrary<VectorCase> = fc
  .record({
    settings: anySettings,
    policies: fc.array(policyObject, { minLength: 1, maxLength: 4 }),
    identities: fc.array(identityLabels, { minLength: 2, maxLength: 4 }),
    flows: fc.array(flow, { minLength: 12, maxLength: 12 }),
    number: fc.nat(0xffff),
  })
  .map(({ settings, policies, identities, flows, number }) => {
    // The label of the world reaches other identities in dual stack than its entity does (specification 6.3.10).
    const dualStack = settings.dualStack && !JSON.stringify(policies).includes('reserved:world');
    const world: ReferenceWorld = {
      ...settings,
      subject: SUBJECT,
      subjectPorts: SUBJECT_PORTS,
      groups: GROUPS,
      policies,
    };
    const said = flows.filter(({ protocol }) => protocol !== 'GRE');
    return {
      name: `random-${number}`,
      config: {
        clusterName: settings.clusterName,
        ipv4: true,
        ipv6: dualStack,
        allowLocalhost: settings.allowLocalhost,
        policyDefaultLocalCluster: settings.defaultLocalCluster,
      },
      enforcement: settings.enforcement,
      subject: { id: FIRST_IDENTITY - 1, labels: SUBJECT, namedPorts: SUBJECT_PORTS },
      identities: identities.map((labels, index) => endpoint(labels, index)),
      dns: Object.entries(DNS).map(([name, ips]) => ({ name, ips })),
      policies: [groups(), ...policies.map((object, index) => JSON.parse(textOf(object, `p${index}`)))],
      flows: said.flatMap((each) => [
        ...identities.map((labels, index) =>
          vectorFlow(each, { peer: FIRST_IDENTITY + index }, { peer: { labels }, world }),
        ),
        ...ADDRESSES.filter(() => each.protocol !== 'ICMPv6').map((text) =>
          vectorFlow(each, { peerIP: text }, { peer: outside(text, dualStack), world }),
        ),
      ]),
    };
  });

function endpoint(labels: readonly string[], index: number): VectorEndpoint {
  return { id: FIRST_IDENTITY + index, labels, ips: [`10.77.0.${index + 1}/32`] };
}

function outside(text: string, dualStack: boolean): ReferencePeer {
  const names = Object.keys(DNS).filter((name) => DNS[name]?.includes(text));
  const labels = [dualStack ? 'reserved:world-ipv4' : 'reserved:world'];
  return { labels, outside: { address: address(text).words[0] ?? 0, names } };
}

function groups(): unknown {
  return {
    apiVersion: 'cilium.io/v2alpha1',
    kind: 'CiliumCIDRGroup',
    metadata: { name: 'partners' },
    spec: { externalCIDRs: GROUPS.partners },
  };
}

function vectorFlow(
  said: ReferenceFlow,
  named: Pick<VectorFlow, 'peer' | 'peerIP'>,
  { peer, world }: { readonly peer: ReferencePeer; readonly world: ReferenceWorld },
): VectorFlow {
  const icmp = said.protocol.startsWith('ICMP');
  return {
    dir: said.direction,
    ...named,
    proto: said.protocol,
    ...(icmp ? { icmpType: said.port } : { port: said.port }),
    verdict: referenceVerdict(said, peer, world),
  };
}
