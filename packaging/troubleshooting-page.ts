import { ERROR_CODES, type ErrorEntry } from '../src/core/errors.ts';
import { consequencesOf } from '../src/doctor/causes.ts';

const ROOMS: readonly (readonly [prefix: string, title: string])[] = [
  ['CFG', 'Configuration'],
  ['HST', 'The machine'],
  ['KVS', 'Stores'],
  ['MSH', 'Clusters and the mesh'],
  ['POL', 'Policies'],
  ['DPN', 'Packet filter'],
  ['OVL', 'Overlay'],
  ['AGT', 'Agent'],
  ['DOC', 'Doctor'],
  ['PKI', 'Keys and certificates'],
  ['JOIN', 'Joining'],
  ['HUB', 'Hub'],
  ['API', 'Local socket'],
  ['OBS', 'Metrics'],
];

/** docs/troubleshooting.md: one entry for each code of the table that the program itself uses. */
export function troubleshootingPage(): string {
  const known = new Set(ROOMS.map(([prefix]) => prefix));
  const others = [...new Set(Object.keys(ERROR_CODES).map(prefixOf))].filter((prefix) => !known.has(prefix));
  const rooms = [...ROOMS, ...others.map((prefix) => [prefix, prefix] as const)];
  return `${HEAD}\n${rooms.map(([prefix, title]) => roomText(prefix, title)).join('\n')}`;
}

const HEAD = `# Troubleshooting

\`mesh-agent doctor\` looks at everything and names the cause first. Every trouble has a code, the same in \`status\`, in the log, in the metrics and here. This
page is made from the table that the program uses (\`node packaging/troubleshooting.ts\`).

| what is seen | where to begin |
| --- | --- |
| clusters cannot connect | \`mesh-agent doctor\`: ids and names that clash (MSH-CLUSTER-ID, MSH-CLUSTER-NAME), overlapping ranges (MSH-RANGES, HST-RANGE), each step to the store (KVS-…), certificates (CFG-CERTIFICATE, KVS-TLS-…) |
| a global service lacks remote backends | MSH-SERVICE-NAME, MSH-NOT-SHARED, MSH-NO-BACKENDS; \`mesh-agent service get NAMESPACE/NAME\` |
| a policy for another cluster has no effect | POL-CLUSTER, MSH-INCOMPLETE; \`mesh-agent identity list\`, \`mesh-agent policy explain SOURCE self\` |
| packets to pods are lost | OVL-UNREACHABLE, OVL-MTU, HST-FIREWALL, HST-RP-FILTER, HST-CONNTRACK |
| the machine does not join | JOIN-…, MSH-REGISTRATION, HST-CLOCK |
`;

function roomText(prefix: string, title: string): string {
  const codes = Object.entries<ErrorEntry>(ERROR_CODES).filter(([code]) => prefixOf(code) === prefix);
  return `## ${title}\n\n${codes.map(([code, entry]) => entryText(code, entry)).join('\n')}`;
}

function entryText(code: string, { summary, remedy, retryable }: ErrorEntry): string {
  const follows = consequencesOf(code);
  return [
    `### ${code}`,
    '',
    `${sentence(summary)} ${retryable ? 'It is tried again by itself.' : 'It stays until something is changed.'}`,
    '',
    `**Do:** ${sentence(remedy)}`,
    '',
    ...(follows.length === 0 ? [] : [`What may follow from it: ${follows.join(', ')}.`, '']),
  ].join('\n');
}

function prefixOf(code: string): string {
  return code.slice(0, code.indexOf('-'));
}

function sentence(text: string): string {
  const begun = /^(`|systemctl )/.test(text) ? text : text.charAt(0).toUpperCase() + text.slice(1);
  return `${begun}.`;
}
