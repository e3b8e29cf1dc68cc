import type { CheckRecord } from '../../api/doctor-types.ts';
import { MeshError, messageOf } from '../../core/errors.ts';
import { countAttached, probeBpf } from '../../datapath/bpf/probe.ts';
import { type ForeignRules, readForeignRules } from '../../datapath/nft/foreign.ts';
import { chains } from '../../datapath/nft/kernel.ts';
import { probeRules } from '../../datapath/nft/probe.ts';
import { CommandError, run } from '../../host/command.ts';
import { NETLINK_NETFILTER, NetlinkSocket } from '../../host/netlink.ts';
import { Findings } from '../check.ts';

const GROUP = { group: 'machine', name: 'packet-filter' } as const;
/** The oldest that knows what the rules need. */
const OLDEST = [1, 0, 2] as const;
const PROGRAM_MS = 4000;

/** Whether nft is there, new enough, and can speak with the kernel in the words of our rules. */
export async function checkPacketFilter(): Promise<CheckRecord[]> {
  const findings = new Findings(GROUP);
  const version = await nftVersion(findings);
  if (version === undefined) return findings.list;
  if (isOlder(version.numbers)) findings.error('DPN-OLD', `nft is version ${version.text}`);
  if (process.getuid?.() !== 0) {
    findings.skipped('only root may try the rules');
    return findings.list;
  }
  const missing: string[] = [];
  try {
    await probeRules((part, error) =>
      missing.push(`${part} (${error instanceof MeshError ? error.message : String(error)})`),
    );
    if (missing.length > 0) findings.warning('DPN-OLD', `nft or the kernel cannot do: ${missing.join('; ')}`);
    else findings.ok(`nft ${version.text} and the kernel take the rules`);
  } catch (error) {
    findings.thrown(error, 'DPN-RULES');
  }
  return findings.list;
}

async function nftVersion(findings: Findings): Promise<{ text: string; numbers: readonly number[] } | undefined> {
  try {
    const { stdout } = await run('nft', ['--version'], { timeoutMs: PROGRAM_MS, maxOutput: 10_000 });
    const text = /v?(\d+\.\d+(?:\.\d+)?)/.exec(stdout)?.[1];
    if (text !== undefined) return { text, numbers: text.split('.').map(Number) };
    findings.error('DPN-RULES', 'the program nft does not tell its version');
  } catch (error) {
    if (error instanceof CommandError && error.failure === 'missing')
      findings.error('DPN-MISSING', 'there is no program nft in the path');
    else findings.error('DPN-RULES', `nft does not run: ${messageOf(error)}`);
  }
  return undefined;
}

function isOlder(numbers: readonly number[]): boolean {
  for (const [index, least] of OLDEST.entries()) {
    const number = numbers[index] ?? 0;
    if (number !== least) return number < least;
  }
  return false;
}

/** Whether the kernel takes the programs of `datapath: bpf`. */
export async function checkBpf(): Promise<CheckRecord[]> {
  const findings = new Findings(GROUP);
  if (process.getuid?.() !== 0) {
    findings.skipped('only root may try the programs');
    return findings.list;
  }
  try {
    await probeBpf();
    findings.ok('the kernel takes the eBPF programs');
  } catch (error) {
    findings.thrown(error, 'DPB-OLD');
  }
  return findings.list;
}

/** What the kernel holds without the agent: how much of ours, and the rules of others. Throws NetlinkError, BpfError. */
export async function readKernelRules(): Promise<{ readonly own: number; readonly foreign: ForeignRules }> {
  const socket = new NetlinkSocket({ family: NETLINK_NETFILTER });
  try {
    const own = (await chains(socket)).length + (await countAttached());
    return { own, foreign: await readForeignRules(socket) };
  } finally {
    socket.close();
  }
}
