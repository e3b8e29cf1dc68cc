import { join } from 'node:path';
import type { JudgementRecord, PortsRecord, RuleRecord } from '../../api/policy-types.ts';
import type { NumericIdentity } from '../../core/identity.ts';
import { POLICIES_PREFIX } from '../../kvstore/paths.ts';
import type { PolicyModel } from '../../policy/model.ts';
import type { PolicySource } from '../../policy/repository.ts';
import type { PolicyRow, RuleRef } from '../../policy/result.ts';
import type { Agent } from '../agent.ts';
import { type AskedPort, portsWord } from './question.ts';

export interface JudgedFlow {
  readonly direction: 'ingress' | 'egress';
  readonly identity: NumericIdentity;
  readonly port: AskedPort | undefined;
}

export type Judgement = Omit<JudgementRecord, 'rules' | 'ports'> & {
  readonly rules: readonly RuleRef[];
  readonly ports?: readonly (Omit<PortsRecord, 'rules'> & { readonly rules: readonly RuleRef[] })[];
};

/** What a model says of a flow: of one port, or of all. */
export function judgement(model: PolicyModel, { direction, identity, port }: JudgedFlow): Judgement {
  if (port !== undefined) return model.explain({ direction, identity, ...port });
  const policy = model.resolved[direction];
  const { rows } = policy.classOf(identity);
  const any = rows.find(({ protocol }) => protocol === 0);
  const rest = rows.filter((row) => row !== any);
  const open = !policy.enforcing || !policy.defaultDeny;
  const base =
    any === undefined
      ? {
          verdict: open ? ('allow' as const) : ('deny' as const),
          audit: false,
          rules: open ? [] : model.defaultDenyOf(direction),
        }
      : { verdict: any.verdict, audit: any.audit === true, rules: any.rules };
  // A packet of a protocol that no row names is what `explain` is asked about where no port decides.
  if (rest.every((row) => row.verdict === base.verdict)) {
    const said = model.explain({ direction, identity, protocol: UNNAMED_PROTOCOL, port: 0 });
    return { ...said, ...base, reason: said.reason };
  }
  const ports = [...rest.map(portsOf), { ports: 'everything else', ...base }];
  return { verdict: 'partly', audit: false, reason: 'by-port', rules: [], ports };
}

/** GRE: no policy can name it. */
const UNNAMED_PROTOCOL = 47;

function portsOf(row: PolicyRow) {
  return { ports: portsWord(row), verdict: row.verdict, audit: row.audit === true, rules: row.rules };
}

/** Gives rules their documents. `foreign`: policies that are not the agent's own, and the file that they stand in. */
export class RulePlaces {
  readonly #agent: Agent;
  readonly #foreign: ReadonlyMap<string, string>;

  constructor(agent: Agent, foreign: ReadonlyMap<string, string> = new Map()) {
    this.#agent = agent;
    this.#foreign = foreign;
  }

  record({ ports, ...said }: Judgement): JudgementRecord {
    return {
      ...said,
      rules: said.rules.map((ref) => this.rule(ref)),
      ...(ports !== undefined && {
        ports: ports.map((each) => ({ ...each, rules: each.rules.map((ref) => this.rule(ref)) })),
      }),
    };
  }

  rule({ policy, path, line }: RuleRef): RuleRecord {
    const at = { policy, path, ...(line !== undefined && { line }) };
    const where = line === undefined ? '' : `:${line}`;
    const file = this.#foreign.get(policy);
    if (file !== undefined) return { ...at, source: `file:${file}`, place: `${file}${where}` };
    const document = this.#agent.repository.documentOf(policy);
    if (document === undefined) return at;
    return {
      ...at,
      source: `${document.source}:${document.name}`,
      place: `${this.#placeOf(document.source, document.name)}${where}`,
    };
  }

  #placeOf(source: PolicySource, name: string): string {
    const { config, apiPolicies } = this.#agent;
    if (source === 'directory') return join(config.policies, name);
    return source === 'api' ? apiPolicies.fileOf(name) : `${POLICIES_PREFIX}${name}`;
  }
}
