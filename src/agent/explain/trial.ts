import type { PolicyText, TrialRecord } from '../../api/policy-types.ts';
import { LOCAL_SCOPE, type NumericIdentity } from '../../core/identity.ts';
import { type Address, addressBits, contains, type Prefix, parseAddress, prefixOf } from '../../core/ip.ts';
import { findingsOf, type PolicyFinding } from '../../policy/language/findings.ts';
import { parsePolicies } from '../../policy/language/parse.ts';
import { PolicyModel } from '../../policy/model.ts';
import type { GoodObject } from '../../policy/repository.ts';
import type { Agent } from '../agent.ts';
import { type Party, worldOf } from './party.ts';

/** Policies of texts, read; or what is wrong with them. */
export interface ReadTexts {
  readonly findings: readonly PolicyFinding[];
  readonly objects: readonly { readonly file: string; readonly object: GoodObject }[];
}

export function readTexts(texts: readonly PolicyText[]): ReadTexts {
  const read = texts.map(({ name, text }) => ({ name, parsed: parsePolicies(text, { name }) }));
  return {
    findings: read.flatMap(({ name, parsed }) => findingsOf(name, parsed)),
    objects: read.flatMap(({ name: file, parsed }) =>
      parsed.objects.flatMap((object) => (object.type === 'bad' ? [] : [{ file, object }])),
    ),
  };
}

/**
 * A model of its own with the agent's policies and others added, which knows of the mesh as much as a question about one
 * peer needs. Nothing of the agent is touched.
 */
export class Trial {
  readonly model: PolicyModel;
  readonly identity: NumericIdentity;
  readonly policies: TrialRecord['policies'];
  /** File by policy. */
  readonly files: ReadonlyMap<string, string>;

  constructor(agent: Agent, peer: Party, added: ReadTexts['objects']) {
    this.model = new PolicyModel(agent.policySettings());
    const registered = agent.registration?.registered;
    this.model.setSubject(registered?.labels, agent.config.namedPorts);
    const present = agent.repository.inForce();
    const all = new Map(present);
    for (const { object } of added) all.set(object.policy, object);
    for (const [policy, object] of all) {
      if (object.type === 'policy') this.model.setPolicies(policy, object.rules);
      else this.model.setCidrGroup(object.name, object);
    }
    if (peer.labels.length > 0) this.model.setIdentity(peer.identity, peer.labels);
    this.identity = peer.address === undefined ? peer.identity : this.#identityOf(agent, peer.address);
    this.policies = [...new Map(added.map(({ object }) => [object.policy, object])).values()].map((object) => {
      const before = present.get(object.policy);
      const change = before === undefined ? 'added' : sameObject(before, object) ? 'unchanged' : 'replaced';
      return { name: object.policy, change };
    });
    this.files = new Map(added.map(({ file, object }) => [object.policy, file]));
  }

  /** As the ipcache would have it with the prefixes that these policies name. */
  #identityOf(agent: Agent, address: Address): NumericIdentity {
    for (const { name, addresses } of agent.names.list()) {
      const parsed = addresses.map((each) => parseAddress(each.address)).filter((each) => each !== undefined);
      this.model.setNames(name, parsed);
    }
    const single = prefixOf(address, addressBits(address.family));
    let best: { readonly prefix: Prefix; readonly identity: NumericIdentity } | undefined;
    const entry = agent.tables.ipcache.lookup(address);
    const claims = entry !== undefined && entry.identity < LOCAL_SCOPE ? [entry] : agent.tables.ipcache.prefixes();
    for (const claim of claims) {
      // Of clusters; ours are the prefixes of the policies in force, and these are others.
      if (claim.identity >= LOCAL_SCOPE || !contains(claim.prefix, single)) continue;
      if (best === undefined || claim.prefix.bits > best.prefix.bits) best = claim;
    }
    for (const named of this.model.resolved.prefixes.values()) {
      if (contains(named.prefix, single) && (best === undefined || named.prefix.bits > best.prefix.bits)) best = named;
    }
    const number = best?.identity ?? worldOf(agent, address);
    const known = number < LOCAL_SCOPE ? agent.tables.identities.get(number)?.labels : undefined;
    if (known !== undefined) this.model.setIdentity(number, known);
    return number;
  }
}

function sameObject(a: GoodObject, b: GoodObject): boolean {
  if (a.type === 'policy' && b.type === 'policy')
    return (
      JSON.stringify(a.rules.map(({ display, audit }) => [display, audit])) ===
      JSON.stringify(b.rules.map(({ display, audit }) => [display, audit]))
    );
  return (
    a.type === 'cidr-group' &&
    b.type === 'cidr-group' &&
    JSON.stringify([a.prefixes, a.labels]) === JSON.stringify([b.prefixes, b.labels])
  );
}
