import { identity, type NumericIdentity, RESERVED } from '../../src/core/identity.ts';
import { addressBits, contains, type Prefix, parseAddress, parsePrefix } from '../../src/core/ip.ts';
import { labelSet, parseLabel } from '../../src/core/labels.ts';
import { judge } from '../../src/datapath/judge.ts';
import { formatProblem, type ParsedText, parsePolicies } from '../../src/policy/language/parse.ts';
import { type NamedPortValue, PolicyModel } from '../../src/policy/model.ts';
import { PROTOCOL } from '../../src/policy/result.ts';
import type { VectorCase, VectorEndpoint, VectorFlow } from './vector.ts';

/** One difference between a vector and the model. */
export interface Difference {
  readonly case: string;
  readonly flow: string;
  readonly expected: string;
  readonly got: string;
}

/** In which order the facts are told. The outcome must not depend on it. */
export type Order = 'as-written' | 'reversed' | 'one-by-one';
export const ORDERS: readonly Order[] = ['as-written', 'reversed', 'one-by-one'];

export const PROTOCOLS: Readonly<Record<string, number>> = {
  TCP: PROTOCOL.tcp,
  UDP: PROTOCOL.udp,
  SCTP: PROTOCOL.sctp,
  ICMP: PROTOCOL.icmp,
  ICMPv6: PROTOCOL.icmpv6,
};

export function runCase(vector: VectorCase, order: Order = 'as-written'): Difference[] {
  const parsed = parseCase(vector, order);
  const refusal = parsed.map(refusalOf).find((each) => each !== undefined);
  const refused = { case: vector.name, flow: 'the policies' };
  if (vector.error === true) return refusal === undefined ? [{ ...refused, expected: 'refused', got: 'accepted' }] : [];
  if (refusal !== undefined) {
    if (vector.tags?.includes('legacy')) return [];
    return [{ ...refused, expected: 'accepted', got: refusal }];
  }
  const model = modelOf(vector, parsed, order);
  return [...compareModes(vector, model), ...(vector.flows ?? []).flatMap((flow) => compareFlow(vector, flow, model))];
}

function parseCase(vector: VectorCase, order: Order): ParsedText[] {
  return textsOf(vector, order).map((text, index) =>
    parsePolicies(text, {
      nodeSelectors: vector.config.nodeSelectorLabels === true,
      l7: vector.config.l7ProxyDisabled === true ? 'reject' : 'hold',
      name: `case-${index}`,
    }),
  );
}

/** The model of a case; undefined when its policies are refused. */
export function modelOfCase(vector: VectorCase): PolicyModel | undefined {
  const parsed = parseCase(vector, 'as-written');
  return parsed.some((each) => refusalOf(each) !== undefined) ? undefined : modelOf(vector, parsed, 'as-written');
}

function textsOf(vector: VectorCase, order: Order): string[] {
  const texts = (vector.policies ?? []).map((policy) => JSON.stringify(policy));
  if (vector.policyYAML !== undefined) texts.push(vector.policyYAML);
  return order === 'as-written' ? texts : texts.reverse();
}

function refusalOf({ objects, error }: ParsedText): string | undefined {
  if (error !== undefined) return formatProblem(error);
  for (const object of objects) if (object.type === 'bad') return formatProblem(object.error);
  return undefined;
}

function modelOf(vector: VectorCase, parsed: readonly ParsedText[], order: Order): PolicyModel {
  const { config } = vector;
  const model = new PolicyModel({
    clusterName: config.clusterName,
    dualStack: config.ipv4 && config.ipv6,
    enforcement: vector.enforcement ?? 'default',
    allowLocalhost: config.allowLocalhost,
    defaultLocalCluster: config.policyDefaultLocalCluster,
    hostFirewall: config.hostFirewall === true,
  });
  const look = (): void => {
    if (order === 'one-by-one') void model.resolved.revision;
  };
  const steps = [
    () => model.setSubject(labelsOf(vector.subject), namedPortsOf(vector.subject)),
    ...(vector.identities ?? []).map((each) => () => {
      model.setIdentity(identity(each.id), labelsOf(each));
      model.setNamedPorts(identity(each.id), namedPortsOf(each));
    }),
    ...(vector.dns ?? []).map(
      ({ name, ips }) =>
        () =>
          model.setNames(name, ips.map(addressOf)),
    ),
    () => putPolicies(model, parsed),
  ];
  for (const step of order === 'as-written' ? steps : steps.reverse()) {
    step();
    look();
  }
  return model;
}

function putPolicies(model: PolicyModel, parsed: readonly ParsedText[]): void {
  for (const [index, { objects }] of parsed.entries()) {
    for (const [part, object] of objects.entries()) {
      if (object.type === 'policy') model.setPolicies(`${index}/${part}`, object.rules);
      if (object.type === 'cidr-group') model.setCidrGroup(object.name, object);
    }
  }
}

const labelsOf = ({ labels }: VectorEndpoint) => labelSet(labels.map(parseLabel));

function namedPortsOf({ namedPorts }: VectorEndpoint): NamedPortValue[] {
  return (namedPorts ?? []).map(({ name, port, protocol }) => {
    return { name, port, protocol: PROTOCOLS[protocol.toUpperCase()] as NamedPortValue['protocol'] };
  });
}

function addressOf(text: string) {
  const address = parseAddress(text);
  if (address === undefined) throw new Error(`not an address: ${text}`);
  return address;
}

function compareModes(vector: VectorCase, model: PolicyModel): Difference[] {
  return (['enforcing', 'defaultDeny'] as const).flatMap((mode) =>
    (['ingress', 'egress'] as const).flatMap((direction) => {
      const expected = vector[mode]?.[direction];
      const got = model.resolved[direction][mode];
      if (expected === undefined || expected === got) return [];
      return [{ case: vector.name, flow: `${direction} ${mode}`, expected: String(expected), got: String(got) }];
    }),
  );
}

function compareFlow(vector: VectorCase, flow: VectorFlow, model: PolicyModel): Difference[] {
  const peer = flow.peer === undefined ? identityOf(flow.peerIP ?? '', vector, model) : identity(flow.peer);
  const packet = {
    identity: peer,
    protocol: PROTOCOLS[flow.proto] ?? 0,
    port: flow.icmpType ?? flow.port ?? 0,
  };
  // What only a proxy can allow, an agent without one denies.
  const expected = flow.l7Only === true ? 'deny' : flow.verdict;
  const got = judge(model.resolved[flow.dir], packet);
  const explained = model.explain({ direction: flow.dir, ...packet }).verdict;
  const name = `${flow.dir} ${flow.peer ?? flow.peerIP} ${flow.proto}/${packet.port}`;
  const differences: Difference[] = [];
  if (got !== expected) differences.push({ case: vector.name, flow: name, expected, got });
  if (explained !== got)
    differences.push({ case: vector.name, flow: `${name} explained`, expected: got, got: explained });
  return differences;
}

/** As the ipcache would: the longest prefix, and of equals the endpoint's. */
function identityOf(text: string, vector: VectorCase, model: PolicyModel): NumericIdentity {
  const address = addressOf(text);
  const single = { ...address, bits: addressBits(address.family) };
  let best: { bits: number; identity: NumericIdentity } | undefined;
  const offer = (prefix: Prefix | undefined, id: NumericIdentity): void => {
    if (prefix === undefined || !contains(prefix, single)) return;
    if (best === undefined || prefix.bits > best.bits) best = { bits: prefix.bits, identity: id };
  };
  for (const { id, ips } of vector.identities ?? []) for (const ip of ips ?? []) offer(parsePrefix(ip), identity(id));
  for (const { prefix, identity: id } of model.resolved.prefixes.values()) offer(prefix, id);
  if (best !== undefined) return best.identity;
  if (!(vector.config.ipv4 && vector.config.ipv6)) return RESERVED.world;
  return address.family === 4 ? RESERVED.worldIpv4 : RESERVED.worldIpv6;
}
