import { type AnswerOptions, answerTo } from './answer.ts';
import { parseQuery, RCODE } from './query.ts';
import { errorReply, writeReply } from './reply.ts';

/** What became of messages: answers by their code, and why others got none. */
export type DnsOutcome =
  | 'answered'
  | 'no-name'
  | 'not-ready'
  | 'refused'
  | 'malformed'
  | 'unsupported'
  | 'nonsense'
  | 'limited'
  | 'foreign';

const OUTCOMES: Readonly<Record<number, DnsOutcome>> = {
  [RCODE.ok]: 'answered',
  [RCODE.noName]: 'no-name',
  [RCODE.failure]: 'not-ready',
  [RCODE.refused]: 'refused',
  [RCODE.format]: 'malformed',
  [RCODE.notImplemented]: 'unsupported',
  [RCODE.badVersion]: 'unsupported',
};

/** Bytes to bytes, and a count of what they were. */
export class Responder {
  #options: AnswerOptions;
  readonly #counts = new Map<DnsOutcome, number>();

  constructor(options: AnswerOptions) {
    this.#options = options;
  }

  /** Answers so from now on; what was counted stays. */
  configure(options: AnswerOptions): void {
    this.#options = options;
  }

  /** Undefined: nothing is said to that. Never throws, whatever the bytes are. */
  respond(data: Buffer, transport: 'udp' | 'tcp'): Buffer | undefined {
    const parsed = parseQuery(data);
    if (parsed.kind === 'nonsense') {
      this.count('nonsense');
      return undefined;
    }
    if (parsed.kind === 'refused') {
      this.count(OUTCOMES[parsed.rcode] ?? 'malformed');
      return errorReply(parsed.echo, parsed.rcode);
    }
    const answer = answerTo(parsed.query, this.#options);
    this.count(OUTCOMES[answer.rcode] ?? 'answered');
    return writeReply(parsed.query, answer, transport);
  }

  count(outcome: DnsOutcome): void {
    this.#counts.set(outcome, (this.#counts.get(outcome) ?? 0) + 1);
  }

  get counts(): Readonly<Partial<Record<DnsOutcome, number>>> {
    return Object.fromEntries(this.#counts);
  }
}
