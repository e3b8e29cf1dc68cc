import type {
  AdviceRecord,
  ExplanationRecord,
  JudgementRecord,
  NearRuleRecord,
  PartyRecord,
  RuleRecord,
  TrialRecord,
} from '../api/policy-types.ts';
import { printable } from '../observe/printable.ts';
import { type Paint, painter, type Tone } from './paint.ts';
import { plural, span } from './words.ts';

export interface ExplanationTextOptions {
  readonly now: number;
  readonly color: boolean;
  /** All labels and rules. */
  readonly wide: boolean;
}

const WIDTH = 13;
const SHOWN_LABELS = 12;
const SHOWN_RULES = 8;

/** An answer for people: the verdict, why, who is who, what the kernel says, and what would have to change. */
export function explanationText(answer: ExplanationRecord, options: ExplanationTextOptions): string {
  const paint = painter(options.color);
  const lines: string[] = [headline(answer, paint), ''];
  const add = (name: string, texts: readonly string[]): void => {
    for (const [index, text] of texts.entries()) {
      const head = (index === 0 ? `${name}:` : '').padEnd(WIDTH);
      lines.push(`${index === 0 ? paint(head, 'bold') : head}${printable(text)}`);
    }
  };
  const reasons = (said: JudgementRecord): string[] => [reasonText(said), ...judgedLines(said, options)];
  add('Reason', reasons(answer));
  add('Source', partyLines(answer.source, options));
  add('Destination', partyLines(answer.destination, options));
  const kernel = answer.kernel.rows.length > 1 ? answer.kernel.rows.map(rowLine) : [];
  add('Kernel', [`${KERNEL_WORDS[answer.kernel.state]}${answer.kernel.text}`, ...kernel]);
  if (answer.advice !== undefined) add('To allow it', adviceLines(answer.advice));
  if (answer.trial !== undefined) {
    lines.push('');
    add('With', trialPolicies(answer.trial));
    add('Before', [verdictWord(answer.trial.before), ...reasons(answer.trial.before)]);
    add('After', [verdictWord(answer.trial.after), ...reasons(answer.trial.after)]);
  }
  const policy = answer.advice?.policy;
  if (policy !== undefined && answer.trial === undefined) {
    lines.push('', paint('This policy would allow it (tried, not applied):', 'bold'), '');
    lines.push(
      ...policy
        .trimEnd()
        .split('\n')
        .map((line) => `  ${printable(line)}`),
    );
  }
  return `${lines.join('\n')}\n`;
}

const KERNEL_WORDS: Readonly<Record<ExplanationRecord['kernel']['state'], string>> = {
  agrees: 'agrees: ',
  differs: 'DIFFERS: ',
  unapplied: 'not applied yet: ',
  unread: '',
  none: '',
};

function headline(answer: ExplanationRecord, paint: Paint): string {
  const tones: Record<JudgementRecord['verdict'], Tone> = { allow: 'green', deny: 'red', partly: 'yellow' };
  const what = answer.protocol === undefined ? 'every port' : `${answer.protocol}/${answer.port}`;
  const ends = `${endWord(answer.source)} -> ${endWord(answer.destination)}`;
  return `${paint(verdictWord(answer), tones[answer.verdict])}  ${printable(`${ends}, ${what}, ${answer.direction}`)}`;
}

function verdictWord({ verdict, audit }: JudgementRecord): string {
  const words = { allow: 'ALLOWED', deny: 'DENIED', partly: 'DEPENDS ON THE PORT' } as const;
  return audit ? 'ALLOWED (audit: it would be denied)' : words[verdict];
}

function endWord({ self, name, address, identity }: PartyRecord): string {
  if (self) return name ?? 'self';
  return address ?? `identity ${identity}`;
}

const REASONS: Readonly<Record<JudgementRecord['reason'], string>> = {
  always: 'it holds whatever the policies say',
  inside: 'traffic inside the machine is not judged',
  'not-enforced': 'no policy is in force for this machine in this direction',
  'denied-by-rule': 'a rule denies it',
  'allowed-by-rule': 'a rule allows it',
  'no-default-deny': 'no rule matches, and no policy asks for default deny',
  'default-deny': 'no rule allows it, and default deny is asked for by',
  'needs-authentication': 'the rule that allows it asks for authentication, which there is none of',
  'by-port': 'the rules tell ports apart',
};

function reasonText(said: JudgementRecord): string {
  if (said.rules.length === 0) return REASONS[said.reason].replace(/ by$/, '');
  return `${REASONS[said.reason]}:`.replace(/::$/, ':');
}

function judgedLines(
  said: JudgementRecord & { readonly always?: ExplanationRecord['always'] },
  { wide }: ExplanationTextOptions,
): string[] {
  if (said.always !== undefined) return [`  ${said.always.what}: ${said.always.why}`];
  return [
    ...ruleLines(said.rules, wide),
    ...(said.ports ?? []).flatMap(({ ports, verdict, audit, rules }) => [
      `  ${ports}: ${audit ? 'audit' : verdict}`,
      ...ruleLines(rules, wide).map((line) => `  ${line}`),
    ]),
  ];
}

/** A thousand policies may ask for default deny. */
function ruleLines(rules: readonly RuleRecord[], wide: boolean): string[] {
  const shown = wide ? rules : rules.slice(0, SHOWN_RULES);
  const more = rules.length - shown.length;
  return [...shown.map(ruleLine), ...(more > 0 ? [`  and ${plural(more, 'rule')} more (-o wide)`] : [])];
}

function ruleLine({ policy, path, place }: RuleRecord): string {
  const implicit = IMPLICIT[policy];
  if (implicit !== undefined) return `  ${implicit}`;
  return `  ${policy}${path === '' ? '' : `, ${path}`}${place === undefined ? '' : ` (${place})`}`;
}

const IMPLICIT: Readonly<Record<string, string>> = {
  'implicit/allow-any-ingress': 'nothing restricts what comes in',
  'implicit/allow-any-egress': 'nothing restricts what goes out',
  'implicit/allow-localhost-ingress': '`allowLocalhost: always` in the configuration',
  'implicit/enforcement-always': '`enforcement: always` in the configuration',
  'implicit/enforcement-init': 'the machine has no labels yet (reserved:init)',
};

function partyLines(party: PartyRecord, { now, wide }: ExplanationTextOptions): string[] {
  const { address, prefix, identity, labels, names, note } = party;
  const single = prefix === undefined || prefix === `${address}/32` || prefix === `${address}/128`;
  const within = single ? '' : ` (in ${prefix})`;
  const who = party.self ? `${party.name ?? 'self'}${address === undefined ? '' : ` ${address}`}` : (address ?? '');
  const shown = wide ? labels : labels.slice(0, SHOWN_LABELS);
  const more = labels.length - shown.length;
  return [
    `${who}${within}${who === '' ? '' : ', '}identity ${identity}; ${knowledge(party, now)}`,
    ...shown.map((label) => `  ${label}`),
    ...(more > 0 ? [`  and ${plural(more, 'label')} more (-o wide)`] : []),
    ...(names === undefined ? [] : [`  learnt from DNS: ${names.join(', ')}`]),
    ...(note === undefined ? [] : [`  note: ${note}`]),
  ];
}

function knowledge({ source, cluster, fresh, since }: PartyRecord, now: number): string {
  const whose =
    cluster === undefined
      ? ({ reserved: 'nobody claims it', policy: 'a prefix that policies name' }[source] ?? `known by ${source}`)
      : `${cluster} says so (${source})`;
  if (fresh) return cluster === undefined ? whose : `${whose}, in touch`;
  return `${whose}, out of touch for ${span(now - (since ?? now))}`;
}

function rowLine({ protocol, ports, verdict, packets, bytes }: ExplanationRecord['kernel']['rows'][number]): string {
  return `  ${protocol} ${ports}: ${verdict}, ${packets} packets, ${bytes} bytes`;
}

function adviceLines({ texts, samePeer, samePort }: AdviceRecord): string[] {
  const near = (title: string, rules: readonly NearRuleRecord[]): string[] =>
    rules.length === 0 ? [] : [title, ...rules.flatMap(nearLines)];
  return [
    ...texts,
    ...near('nearest, for this peer on other ports:', samePeer),
    ...near('nearest, for this port and other peers:', samePort),
  ];
}

function nearLines(rule: NearRuleRecord): string[] {
  return [ruleLine(rule), `    ${rule.ports}${rule.peers.length === 0 ? '' : ` for ${rule.peers.join(' | ')}`}`];
}

function trialPolicies({ policies }: TrialRecord): string[] {
  return policies.length === 0 ? ['no policy'] : policies.map(({ name, change }) => `${name} (${change})`);
}
