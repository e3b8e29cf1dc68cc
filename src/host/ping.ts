import { CommandError, run } from './command.ts';

/** What became of an echo request. */
export type PingResult =
  | { readonly outcome: 'answered'; readonly rttMs: number | undefined }
  /** Nothing came back. */
  | { readonly outcome: 'silent' }
  /** An ICMP error came back, or the kernel refused to send: in its words. */
  | { readonly outcome: 'refused'; readonly words: string }
  /** A packet filter of this machine did not let it out. */
  | { readonly outcome: 'forbidden' }
  /** It is larger than what the way takes. */
  | { readonly outcome: 'too-big'; readonly words: string }
  /** There is no program `ping`, or it does not understand us. */
  | { readonly outcome: 'impossible'; readonly words: string };

export interface PingOptions {
  readonly address: string;
  /** Of the whole IP packet; it must not be cut in pieces then. */
  readonly packetBytes?: number;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
}

/** Headers of IP and ICMP. */
const HEADERS = { 4: 28, 6: 48 } as const;
const MAX_OUTPUT = 16 << 10;

/** One echo request and its answer, by the program `ping`. Never throws. */
export async function ping({ address, packetBytes, timeoutMs, signal }: PingOptions): Promise<PingResult> {
  const family = address.includes(':') ? 6 : 4;
  const seconds = String(Math.max(1, Math.ceil(timeoutMs / 1000)));
  const size = packetBytes === undefined ? [] : ['-M', 'do', '-s', String(Math.max(0, packetBytes - HEADERS[family]))];
  const args = [`-${family}`, '-n', '-c', '1', '-W', seconds, ...size, '--', address];
  try {
    const { stdout } = await run('ping', args, {
      timeoutMs: timeoutMs + 2000,
      maxOutput: MAX_OUTPUT,
      ...(signal !== undefined && { signal }),
    });
    const time = /time[=<]([0-9.]+) ?ms/.exec(stdout)?.[1];
    return { outcome: 'answered', rttMs: time === undefined ? undefined : Number(time) };
  } catch (error) {
    if (!(error instanceof CommandError)) return { outcome: 'impossible', words: String(error) };
    return resultOf(error);
  }
}

function resultOf(error: CommandError): PingResult {
  const said = `${error.stderr}\n${error.message}`;
  if (error.failure === 'missing') return { outcome: 'impossible', words: 'there is no program ping' };
  if (/message too long|frag needed|packet too big/i.test(said))
    return { outcome: 'too-big', words: firstLine(error.stderr) };
  if (/operation not permitted/i.test(said)) return { outcome: 'forbidden' };
  if (/unreachable|no route/i.test(said)) return { outcome: 'refused', words: firstLine(error.stderr) };
  // 1: no answer. 2: anything else.
  if (error.failure === 'exit' && error.exitCode === 1) return { outcome: 'silent' };
  if (error.failure === 'timeout' || error.failure === 'aborted') return { outcome: 'silent' };
  return { outcome: 'impossible', words: firstLine(error.stderr) || error.message };
}

function firstLine(text: string): string {
  return text.trim().split('\n')[0]?.slice(0, 200) ?? '';
}
