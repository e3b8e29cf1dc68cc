import type { Outcome, Place, ProbeProtocol } from './place.ts';
import type { DualAddress } from './topology.ts';

/** One question: does this get through, as it should? */
export interface Question {
  readonly from: Place;
  readonly to: Place & DualAddress;
  readonly family: 4 | 6;
  readonly protocol: ProbeProtocol;
  readonly port: number;
  readonly expected: 'pass' | 'blocked';
}

export interface Answer extends Question {
  readonly seen: Outcome;
}

/**
 * Asks all of it at once. What differs is asked again, with more patience: the machine may be busy, or the change that
 * was just made not be in force yet; `patienceMs` says how long it may differ.
 */
export async function reach(questions: readonly Question[], patienceMs = 3000): Promise<Answer[]> {
  const deadline = Date.now() + patienceMs;
  const answers = await Promise.all(questions.map((question) => ask(question)));
  while (answers.some(differs) && Date.now() < deadline) {
    await Promise.all(
      answers.map(async (answer, index) => {
        if (differs(answer)) answers[index] = await ask(answer, 1200);
      }),
    );
  }
  return answers;
}

export function differs({ expected, seen }: Answer): boolean {
  return expected !== seen;
}

/** For the message of a failed test. */
export function describe({ from, to, family, protocol, port, expected, seen }: Answer): string {
  const service = protocol === 'icmp' ? 'icmp' : `${protocol}/${port}`;
  return `${from.label} -> ${to.label} IPv${family} ${service}: ${seen}, not ${expected}`;
}

async function ask(question: Question, timeoutMs?: number): Promise<Answer> {
  const { from, to, family, protocol, port } = question;
  const address = family === 4 ? to.ipv4 : to.ipv6;
  const seen = await from.probe({ protocol, to: address, port, ...(timeoutMs !== undefined && { timeoutMs }) });
  return { ...question, seen };
}
