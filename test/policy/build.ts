import assert from 'node:assert/strict';
import { identity, type NumericIdentity, RESERVED } from '../../src/core/identity.ts';
import { addressBits, contains, parseAddress, parsePrefix } from '../../src/core/ip.ts';
import { type LabelSet, labelSet, parseLabel } from '../../src/core/labels.ts';
import { formatProblem, type ParseOptions, parsePolicies } from '../../src/policy/language/parse.ts';
import { PolicyModel, type PolicySettings } from '../../src/policy/model.ts';
import type { Rule } from '../../src/policy/rule.ts';

/** Short ways to models for tests. */
export const SETTINGS: PolicySettings = {
  clusterName: 'alpha',
  dualStack: false,
  enforcement: 'default',
  allowLocalhost: 'policy',
  defaultLocalCluster: false,
};

export const labels = (...texts: readonly string[]): LabelSet => labelSet(texts.map(parseLabel));

/** The rules of a text that has to be accepted. */
export function rulesOf(text: string, options: ParseOptions = {}): readonly Rule[] {
  const { objects, error } = parsePolicies(text, options);
  assert.equal(error, undefined);
  return objects.flatMap((object) => {
    if (object.type === 'bad') throw new Error(formatProblem(object.error));
    return object.type === 'policy' ? object.rules : [];
  });
}

/** The refusal of a text, as `line N path: message`. */
export function refusalOf(text: string, options: ParseOptions = {}): string {
  const { objects, error } = parsePolicies(text, options);
  const bad = objects.find((object) => object.type === 'bad');
  const problem = error ?? (bad?.type === 'bad' ? bad.error : undefined);
  assert.ok(problem, `accepted: ${text}`);
  return `line ${problem.line} ${problem.path}: ${problem.message}`;
}

export const APP = identity(0x1_0001);
export const WEB = identity(0x1_0002);
export const NOBODY = identity(0x1_ffff);

/** A model with the machine app=db in namespace shop, and the peers APP (app=cart) and WEB (app=web) there. */
export function modelWith(
  policies: string,
  settings: Partial<PolicySettings> = {},
  options: ParseOptions = {},
): PolicyModel {
  const model = new PolicyModel({ ...SETTINGS, ...settings });
  const cluster = 'k8s:io.cilium.k8s.policy.cluster=alpha';
  const namespace = 'k8s:io.kubernetes.pod.namespace=shop';
  model.setSubject(labels('k8s:app=db', cluster, namespace));
  model.setIdentity(APP, labels('k8s:app=cart', cluster, namespace));
  model.setIdentity(WEB, labels('k8s:app=web', cluster, namespace));
  for (const [index, object] of parsePolicies(policies, options).objects.entries()) {
    if (object.type === 'bad') throw new Error(formatProblem(object.error));
    if (object.type === 'policy') model.setPolicies(`${index}`, object.rules);
    else model.setCidrGroup(object.name, object);
  }
  return model;
}

/** A CNP in namespace shop for app=db, around the lines of a spec. */
export function policy(spec: string, head = ''): string {
  const indented = spec
    .trim()
    .split('\n')
    .map((line) => `  ${line}`)
    .join('\n');
  return `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p, namespace: shop${head}}
spec:
  endpointSelector: {matchLabels: {app: db}}
${indented}
`;
}

/** As the ipcache would: the longest prefix that the model names, else the world. */
export function identityOfAddress(model: PolicyModel, text: string, dualStack = false): NumericIdentity {
  const address = parseAddress(text);
  assert.ok(address);
  const single = { ...address, bits: addressBits(address.family) };
  let best: { bits: number; identity: NumericIdentity } | undefined;
  for (const { prefix, identity: id } of model.resolved.prefixes.values()) {
    if (contains(prefix, single) && (best === undefined || prefix.bits > best.bits))
      best = { bits: prefix.bits, identity: id };
  }
  if (best !== undefined) return best.identity;
  if (!dualStack) return RESERVED.world;
  return address.family === 4 ? RESERVED.worldIpv4 : RESERVED.worldIpv6;
}

export function prefix(text: string) {
  const read = parsePrefix(text);
  assert.ok(read);
  return read;
}

export function address(text: string) {
  const read = parseAddress(text);
  assert.ok(read);
  return read;
}
