import type { CheckRecord } from '../../api/doctor-types.ts';
import type { PingResult } from '../../host/ping.ts';
import { Findings } from '../check.ts';

/** One node, and what was seen on the way to it. */
export interface NodeEvidence {
  readonly cluster: string;
  readonly name: string;
  /** Its own address: the outer packets go there. */
  readonly endpoint: string;
  readonly direct: PingResult;
  /** An address behind its tunnel (router or health), and what was seen; undefined when it announces none. */
  readonly inner?: {
    readonly address: string;
    readonly small: PingResult;
    /** As large as the overlay says that a packet may be; only after the small one was answered. */
    readonly large?: { readonly bytes: number; readonly result: PingResult; readonly works?: number };
  };
}

const GROUP = { group: 'network', name: 'overlay' } as const;

/** Whether packets pass through the overlay to nodes and back, and of what size. */
export function judgeReachability(nodes: readonly NodeEvidence[], of: number): CheckRecord[] {
  const findings = new Findings(GROUP);
  let good = 0;
  const silent: string[] = [];
  for (const node of nodes) {
    const subject = { subject: `${node.cluster}: ${node.name}` };
    const { inner } = node;
    if (inner === undefined) {
      silent.push(node.name);
      judgeDirect(node, findings);
    } else if (inner.small.outcome === 'answered') {
      good++;
      judgeSize(inner, findings, subject);
    } else judgeSilence(node, inner, findings);
  }
  if (findings.list.length === 0) {
    const sample = nodes.length < of ? ` (a sample of ${of})` : '';
    const rest = silent.length === 0 ? '' : `; ${silent.length} without an address behind a tunnel`;
    const asked = nodes.length - silent.length;
    if (nodes.length === 0) findings.skipped('there is no other node');
    else if (asked === 0)
      findings.skipped(`none of ${nodes.length} nodes has an address behind a tunnel that could be asked`);
    else findings.ok(`${good} of ${asked} nodes answer through the overlay, with packets of full size${sample}${rest}`);
  }
  return findings.list;
}

type Inner = NonNullable<NodeEvidence['inner']>;

function judgeSize({ address, large }: Inner, findings: Findings, subject: { subject: string }): void {
  if (large === undefined || large.result.outcome === 'answered') return;
  if (large.result.outcome === 'impossible' || large.result.outcome === 'forbidden') return;
  const works = large.works === undefined ? '' : `; ${large.works} bytes pass`;
  findings.error('OVL-MTU', `packets of ${large.bytes} bytes to ${address} are lost, small ones pass${works}`, subject);
}

function judgeSilence(node: NodeEvidence, { address, small }: Inner, findings: Findings): void {
  const subject = { subject: `${node.cluster}: ${node.name}` };
  const direct = node.direct.outcome === 'answered';
  if (small.outcome === 'impossible') findings.skipped(`no packet could be sent: ${small.words}`, subject);
  else if (small.outcome === 'forbidden')
    findings.skipped(`policy does not let this machine send ICMP to ${address}`, subject);
  else if (!direct && node.direct.outcome !== 'impossible' && node.direct.outcome !== 'forbidden')
    judgeDirect(node, findings);
  else {
    const way = small.outcome === 'refused' ? `refused: ${small.words}` : 'nothing came back';
    findings.error(
      'OVL-UNREACHABLE',
      `${address} does not answer through the overlay (${way}), while ${node.endpoint} itself does`,
      subject,
    );
  }
}

function judgeDirect({ cluster, name, endpoint, direct }: NodeEvidence, findings: Findings): void {
  if (direct.outcome !== 'silent' && direct.outcome !== 'refused') return;
  const way = direct.outcome === 'refused' ? direct.words : 'nothing came back';
  findings.warning(
    'OVL-NODE',
    `${endpoint} does not answer (${way}): the node is down, or the network between does not carry ICMP`,
    {
      subject: `${cluster}: ${name}`,
    },
  );
}
