import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { identity, type NumericIdentity, RESERVED } from '../../src/core/identity.ts';
import { labelSet, parseLabel } from '../../src/core/labels.ts';
import { judge } from '../../src/datapath/judge.ts';
import { PolicyModel, type PolicySettings } from '../../src/policy/model.ts';
import { type DirectionPolicy, PROTOCOL } from '../../src/policy/result.ts';
import { address, identityOfAddress, prefix, rulesOf } from './build.ts';
import {
  type ReferenceFlow,
  type ReferenceObject,
  type ReferencePeer,
  type ReferenceWorld,
  referenceVerdict,
} from './reference.ts';
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
} from './scenario.ts';

const NUMBERS: Readonly<Record<ReferenceFlow['protocol'], number>> = {
  TCP: PROTOCOL.tcp,
  UDP: PROTOCOL.udp,
  SCTP: PROTOCOL.sctp,
  ICMP: PROTOCOL.icmp,
  ICMPv6: PROTOCOL.icmpv6,
  GRE: 47,
};
const GROUPS = { partners: ['192.0.2.0/25', '10.1.0.0/16'] };
const idOf = (index: number): NumericIdentity => identity(0x1_0001 + index);
const setOf = (labels: readonly string[]) => labelSet(labels.map(parseLabel));
const PORTS = [
  [],
  [{ name: 'web', protocol: 'TCP', port: 8080 }],
  [
    { name: 'web', protocol: 'TCP', port: 81 },
    { name: 'dns', protocol: 'UDP', port: 53 },
  ],
] as const;

interface Scenario {
  readonly settings: PolicySettings;
  readonly policies: readonly ReferenceObject[];
  readonly identities: readonly (readonly string[])[];
  readonly flows: readonly ReferenceFlow[];
}

const scenario: fc.Arbitrary<Scenario> = fc
  .record({
    settings: anySettings,
    policies: fc.array(policyObject, { maxLength: 4 }),
    identities: fc.array(identityLabels, { minLength: 2, maxLength: 4 }),
    flows: fc.array(flow, { minLength: 5, maxLength: 5 }),
  })
  // The label of the world reaches other identities in dual stack than its entity does (specification 6.3.10).
  .map((each) =>
    JSON.stringify(each.policies).includes('reserved:world')
      ? { ...each, settings: { ...each.settings, dualStack: false } }
      : each,
  );

function worldOf(
  { settings, policies }: Pick<Scenario, 'settings' | 'policies'>,
  subject: readonly string[],
): ReferenceWorld {
  return { ...settings, subject, subjectPorts: SUBJECT_PORTS, groups: GROUPS, policies };
}

const typed = (ports: readonly { name: string; protocol: string; port: number }[]) =>
  ports.map((each) => ({ ...each, protocol: each.protocol === 'TCP' ? PROTOCOL.tcp : PROTOCOL.udp }));

/** One step of telling a model the facts. */
type Step = (model: PolicyModel) => void;

function stepsOf({ policies, identities }: Scenario, subject: readonly string[]): Step[] {
  return [
    (model) => model.setSubject(setOf(subject), typed(SUBJECT_PORTS)),
    (model) => model.setCidrGroup('partners', { labels: [], prefixes: GROUPS.partners.map(prefix) }),
    ...Object.entries(DNS).map(
      ([name, ips]): Step =>
        (model) =>
          model.setNames(name, ips.map(address)),
    ),
    ...identities.flatMap((labels, index): Step[] => [
      (model) => model.setIdentity(idOf(index), setOf(labels)),
      (model) => model.setNamedPorts(idOf(index), typed(PORTS[index % PORTS.length] ?? [])),
    ]),
    ...policies.map((object, index): Step => {
      const rules = rulesOf(textOf(object, `p${index}`));
      return (model) => model.setPolicies(`p${index}`, rules);
    }),
  ];
}

interface Peer {
  readonly name: string;
  readonly id: NumericIdentity;
  readonly peer: ReferencePeer;
}

function peersOf({ settings, identities }: Scenario, model: PolicyModel): Peer[] {
  const world = settings.dualStack ? 'reserved:world-ipv4' : 'reserved:world';
  const reserved = (id: NumericIdentity, ...labels: string[]): Peer => ({ name: labels.join(), id, peer: { labels } });
  return [
    ...identities.map((labels, index) => {
      const namedPorts = PORTS[index % PORTS.length] ?? [];
      return { name: `identity ${index}`, id: idOf(index), peer: { labels, namedPorts } };
    }),
    reserved(RESERVED.host, 'reserved:host'),
    reserved(RESERVED.remoteNode, 'reserved:remote-node'),
    reserved(RESERVED.kubeApiserver, 'reserved:kube-apiserver', 'reserved:remote-node'),
    { name: 'unknown', id: identity(0x1_ff00), peer: { labels: [], unknown: true } },
    ...ADDRESSES.map((text) => {
      const number = address(text).words[0] ?? 0;
      const names = Object.keys(DNS).filter((name) => DNS[name]?.includes(text));
      const id = identityOfAddress(model, text, settings.dualStack);
      return { name: text, id, peer: { labels: [world], outside: { address: number, names } } };
    }),
  ];
}

let judged = 0;

function compare(scenario: Scenario, model: PolicyModel, subject: readonly string[] = SUBJECT): void {
  const world = worldOf(scenario, subject);
  for (const { name, id, peer } of peersOf(scenario, model)) {
    for (const each of scenario.flows) {
      const packet = { identity: id, protocol: NUMBERS[each.protocol], port: each.port };
      const expected = referenceVerdict(each, peer, world);
      const got = judge(model.resolved[each.direction], packet);
      judged++;
      assert.equal(
        got,
        expected,
        `${name} ${JSON.stringify(each)}\n${world.policies.map((p, i) => textOf(p, `p${i}`)).join('\n')}`,
      );
      assert.equal(model.explain({ direction: each.direction, ...packet }).verdict, got);
    }
  }
}

const FIXED = { seed: 20_260_101 };

test('the model gives the verdicts of the reference evaluator', () => {
  fc.assert(
    fc.property(scenario, (each) => {
      const model = new PolicyModel(each.settings);
      for (const step of stepsOf(each, SUBJECT)) step(model);
      compare(each, model);
    }),
    { numRuns: 500, ...FIXED },
  );
  assert.ok(judged > 10_000, `only ${judged} flows were judged`);
});

test('rows are sorted, do not contradict each other, and none is superfluous', () => {
  fc.assert(
    fc.property(scenario, (each) => {
      const model = new PolicyModel(each.settings);
      for (const step of stepsOf(each, SUBJECT)) step(model);
      for (const direction of [model.resolved.ingress, model.resolved.egress]) checkRows(direction);
    }),
    { numRuns: 200, ...FIXED },
  );
});

function checkRows(direction: DirectionPolicy): void {
  for (const { rows } of direction.classes()) {
    for (const [index, row] of rows.entries()) {
      const before = rows[index - 1];
      assert.ok(row.rules.length > 0, 'a row names what decides it');
      if (before === undefined) continue;
      const order = row.protocol - before.protocol || row.first - before.first || row.last - before.last;
      assert.ok(order > 0, 'sorted, no row twice');
    }
    // Single ports may lie in ranges, and ranges under the whole protocol.
    const ranges = rows.filter(({ first, last }) => first < last && !(first === 0 && last === 65535));
    for (const [index, row] of ranges.entries()) {
      const before = ranges[index - 1];
      assert.ok(before?.protocol !== row.protocol || before.last < row.first, 'ranges are disjoint');
    }
    const policy = { classOf: () => ({ id: 1, rows }) };
    for (const row of rows) {
      const rest = rows.filter((other) => other !== row);
      const probes = [row.first, row.last].map((port) => ({
        identity: identity(1),
        protocol: row.protocol || 47,
        port,
      }));
      const verdicts = (of: typeof rows) =>
        probes.map((packet) => {
          const base = { ...direction, ...policy, enforcing: true, defaultDeny: true };
          return judge({ ...base, classOf: () => ({ id: 1, rows: of }) }, packet);
        });
      // A denial may stand for its reason where default deny would do the same.
      if (row.verdict === 'allow') assert.notDeepEqual(verdicts(rest), verdicts(rows), 'every allowing row is needed');
    }
  }
}

test('the order of facts, repetition and looking in between do not matter', () => {
  const shuffled = scenario.chain((each) => {
    const steps = stepsOf(each, SUBJECT);
    const indexes = Array.from(steps, (_, index) => index);
    const order = fc.shuffledSubarray(indexes, { minLength: steps.length, maxLength: steps.length });
    return fc.record({ each: fc.constant(each), order, looks: fc.infiniteStream(fc.boolean()) });
  });
  fc.assert(
    fc.property(shuffled, ({ each, order, looks }) => {
      const steps = stepsOf(each, SUBJECT);
      const straight = new PolicyModel(each.settings);
      for (const step of steps) step(straight);
      const other = new PolicyModel({ ...each.settings, clusterName: 'elsewhere' });
      for (const index of order) {
        steps[index]?.(other);
        if (looks.next().value === true) void other.resolved;
      }
      steps[order[0] ?? 0]?.(other);
      other.configure(each.settings);
      assert.deepEqual(contentOf(other), contentOf(straight));
    }),
    { numRuns: 150, ...FIXED },
  );
});

/** All that is promised, without numbers that depend on history. */
function contentOf(model: PolicyModel): unknown {
  const { ingress, egress, prefixes } = model.resolved;
  const texts = new Map([...prefixes].map(([text, { identity: id }]) => [id, text]));
  return [ingress, egress].map((direction) => ({
    enforcing: direction.enforcing,
    defaultDeny: direction.defaultDeny,
    unknown: direction.unknownClass.rows,
    identities: [...direction.identities()]
      .map(([id, { rows }]) => [texts.get(id) ?? String(id), rows] as const)
      .sort(([a], [b]) => (a < b ? -1 : 1)),
  }));
}

test('a run of changes ends where a fresh model with the last facts is, and its feed tells all of it', () => {
  const change = fc.oneof(
    fc.record({
      kind: fc.constant('policy' as const),
      index: fc.nat(3),
      object: fc.option(policyObject, { nil: undefined }),
    }),
    fc.record({
      kind: fc.constant('identity' as const),
      index: fc.nat(3),
      labels: fc.option(identityLabels, { nil: undefined }),
    }),
    fc.record({ kind: fc.constant('subject' as const), labels: fc.option(identityLabels, { nil: undefined }) }),
    fc.record({ kind: fc.constant('names' as const), ips: fc.subarray(ADDRESSES) }),
    fc.record({
      kind: fc.constant('group' as const),
      prefixes: fc.option(fc.subarray(GROUPS.partners), { nil: undefined }),
    }),
    fc.record({ kind: fc.constant('ports' as const), index: fc.nat(3), ports: fc.nat(2) }),
    fc.record({ kind: fc.constant('local' as const), number: fc.nat(3), present: fc.boolean() }),
    fc.record({ kind: fc.constant('look' as const) }),
  );
  fc.assert(
    fc.property(anySettings, fc.array(change, { minLength: 5, maxLength: 30 }), (settings, changes) => {
      const model = new PolicyModel(settings);
      const last = new Map<string, Step>();
      const mirror = new Mirror();
      for (const each of changes) {
        const [key, step] = stepOf(each);
        step(model);
        if (key !== '') last.set(key, step);
        else mirror.follow(model);
      }
      const fresh = new PolicyModel(settings);
      for (const step of last.values()) step(fresh);
      assert.deepEqual(contentOf(model), contentOf(fresh));
      mirror.follow(model);
      mirror.check(model);
    }),
    { numRuns: 400, ...FIXED },
  );
});

type Change =
  | { readonly kind: 'policy'; readonly index: number; readonly object: ReferenceObject | undefined }
  | { readonly kind: 'identity'; readonly index: number; readonly labels: readonly string[] | undefined }
  | { readonly kind: 'subject'; readonly labels: readonly string[] | undefined }
  | { readonly kind: 'names'; readonly ips: readonly string[] }
  | { readonly kind: 'group'; readonly prefixes: readonly string[] | undefined }
  | { readonly kind: 'ports'; readonly index: number; readonly ports: number }
  | { readonly kind: 'local'; readonly number: number; readonly present: boolean }
  | { readonly kind: 'look' };

function stepOf(change: Change): readonly [key: string, step: Step] {
  switch (change.kind) {
    case 'policy': {
      const name = `p${change.index}`;
      const rules = change.object === undefined ? undefined : rulesOf(textOf(change.object, name));
      return [name, (model) => model.setPolicies(name, rules)];
    }
    case 'identity': {
      const { index, labels } = change;
      const id = idOf(index);
      return [
        `i${index}`,
        (model) => (labels === undefined ? model.removeIdentity(id) : model.setIdentity(id, setOf(labels))),
      ];
    }
    case 'subject': {
      // Mostly the machine that the policies are for.
      const labels = change.labels?.includes('k8s:app=db') ? change.labels : SUBJECT;
      return [
        'subject',
        (model) => model.setSubject(change.labels === undefined ? undefined : setOf(labels), typed(SUBJECT_PORTS)),
      ];
    }
    case 'names':
      return ['names', (model) => model.setNames('a.x.io', change.ips.map(address))];
    case 'group': {
      const { prefixes } = change;
      const group = prefixes === undefined ? undefined : { labels: [], prefixes: prefixes.map(prefix) };
      return ['group', (model) => model.setCidrGroup('partners', group)];
    }
    case 'ports':
      return [`n${change.index}`, (model) => model.setNamedPorts(idOf(change.index), typed(PORTS[change.ports] ?? []))];
    case 'local': {
      // A number of the local scope from outside: the API server of a cluster.
      const id = identity(0x100_0001 + change.number);
      const labels = setOf(['cidr:203.0.113.10/32', 'reserved:kube-apiserver', 'reserved:world']);
      return [
        `l${change.number}`,
        (model) => (change.present ? model.setIdentity(id, labels) : model.removeIdentity(id)),
      ];
    }
    case 'look':
      return ['', () => undefined];
  }
}

/** A reader that only looks where the feed says. */
class Mirror {
  readonly #rows = { ingress: new Map<number, unknown>(), egress: new Map<number, unknown>() };
  readonly #classes = { ingress: new Map<number, number>(), egress: new Map<number, number>() };
  readonly #prefixes = new Map<string, number>();

  follow(model: PolicyModel): void {
    const changes = model.drainChanges();
    for (const direction of ['ingress', 'egress'] as const) {
      const policy = model.resolved[direction];
      const present = new Map([...policy.classes()].map((each) => [each.id, kernelRows(each.rows)]));
      for (const id of changes[direction].classes) {
        const rows = present.get(id);
        if (rows === undefined) this.#rows[direction].delete(id);
        else this.#rows[direction].set(id, rows);
      }
      for (const id of changes[direction].identities) {
        const of = policy.classOf(id);
        if (of.id === policy.unknownClass.id) this.#classes[direction].delete(id);
        else this.#classes[direction].set(id, of.id);
      }
    }
    for (const text of changes.prefixes) {
      const named = model.resolved.prefixes.get(text);
      if (named === undefined) this.#prefixes.delete(text);
      else this.#prefixes.set(text, named.identity);
    }
  }

  check(model: PolicyModel): void {
    for (const direction of ['ingress', 'egress'] as const) {
      const policy = model.resolved[direction];
      assert.deepEqual(
        this.#rows[direction],
        new Map([...policy.classes()].map((each) => [each.id, kernelRows(each.rows)])),
      );
      assert.deepEqual(this.#classes[direction], new Map([...policy.identities()].map(([id, { id: of }]) => [id, of])));
    }
    assert.deepEqual(
      this.#prefixes,
      new Map([...model.resolved.prefixes].map(([text, { identity: id }]) => [text, id])),
    );
    const { ingress, egress, prefixes } = model.drainChanges();
    assert.equal(ingress.identities.size + ingress.classes.size + egress.identities.size + egress.classes.size, 0);
    assert.equal(prefixes.size, 0);
  }
}

const kernelRows = (rows: DirectionPolicy['unknownClass']['rows']): unknown => rows.map(({ rules: _, ...row }) => row);
