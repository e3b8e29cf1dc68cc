import { styleText } from 'node:util';
import { type Answer, differs } from './reach.ts';

type Style = Parameters<typeof styleText>[0];

/** What the demo prints: steps with their time, excerpts, and the table of who reaches whom. */
export class Screen {
  readonly #out: NodeJS.WriteStream;
  readonly #started = performance.now();
  readonly #color: boolean;
  #pending = false;
  #blank = false;

  constructor(out: NodeJS.WriteStream) {
    this.#out = out;
    this.#color = out.isTTY === true && process.env.NO_COLOR === undefined;
  }

  title(title: string, subtitle: string): void {
    this.#line('');
    this.#line(`  ${this.#paint('bold', title)}`);
    this.#line(`  ${this.#paint('dim', subtitle)}`);
  }

  chapter(number: number, title: string, explanation: string): void {
    this.#line('');
    this.#line(`  ${this.#paint(['bold', 'cyan'], `${number}  ${title}`)}`);
    this.#line(`     ${this.#paint('dim', explanation)}`);
    this.#line('');
  }

  /** Shows what is being done, and how long it took when it is done. */
  async step<Result>(what: string, work: () => Promise<Result> | Result): Promise<Result> {
    if (this.#color) {
      this.#out.write(`  ${this.#clock()}  ${this.#paint('yellow', '…')} ${what}`);
      this.#pending = true;
    }
    const began = performance.now();
    try {
      const result = await work();
      this.#settle('✔', 'green', `${what}${this.#took(performance.now() - began)}`);
      return result;
    } catch (error) {
      this.#settle('✘', 'red', what);
      throw error;
    }
  }

  note(text: string): void {
    this.#line(`  ${this.#clock()}    ${text}`);
  }

  /** A file or the output of a command, marked at its side. */
  excerpt(title: string, text: string): void {
    this.#line('');
    this.#line(`     ${this.#paint('dim', `┌ ${title}`)}`);
    for (const line of text.trimEnd().split('\n')) this.#line(`     ${this.#paint('dim', '│')} ${line}`);
    this.#line(`     ${this.#paint('dim', '└')}`);
  }

  remark(text: string): void {
    this.#line(`     ${this.#paint('dim', text)}`);
  }

  /** Rows as given, each with its answers in the order of `columns`. The number of cells that differ. */
  table(columns: readonly string[], rows: readonly TableRow[]): number {
    const wide = Math.max(...rows.map((row) => row.title.length), 4);
    const expects = Math.max(...rows.map((row) => row.expects.length), 8);
    const head = columns.map((column) => column.padStart(7)).join('');
    this.#line('');
    this.#line(`     ${this.#paint('bold', `${'FLOW'.padEnd(wide)}  ${'EXPECTED'.padEnd(expects)} ${head}`)}`);
    for (const { title, expects: text, answers } of rows) {
      const cells = answers.map((answer) => this.#cell(answer)).join('');
      const wrong = answers.filter(differs).length;
      const verdict = wrong === 0 ? this.#paint('dim', 'as expected') : this.#paint('red', `${wrong} DIFFER`);
      this.#line(`     ${title.padEnd(wide)}  ${text.padEnd(expects)} ${cells}   ${verdict}`);
    }
    const all = rows.flatMap(({ answers }) => answers);
    const wrong = all.filter(differs).length;
    const sum = `${all.length} flows tried, ${wrong === 0 ? 'all as expected' : `${wrong} not as expected`}`;
    this.#line('');
    this.#line(`     ${this.#paint(wrong === 0 ? 'green' : ['bold', 'red'], sum)}`);
    return wrong;
  }

  /** What was expected beside what was seen. The number of rows that differ. */
  comparison(what: string, rows: readonly ComparedRow[]): number {
    const wide = Math.max(...rows.map(({ title }) => title.length), what.length);
    this.#line('');
    this.#line(`     ${this.#paint('bold', `${what.padEnd(wide)}  ${'EXPECTED'.padEnd(10)} SEEN`)}`);
    for (const { title, expects, seen, good } of rows) {
      const verdict = good ? this.#paint('dim', 'as expected') : this.#paint('red', 'DIFFERS');
      this.#line(`     ${title.padEnd(wide)}  ${expects.padEnd(10)} ${seen.padEnd(6)} ${verdict}`);
    }
    this.#line('');
    return rows.filter(({ good }) => !good).length;
  }

  commands(lines: readonly (readonly [command: string, what: string])[]): void {
    for (const [command, what] of lines) {
      this.#line(`     ${this.#paint('dim', `# ${what}`)}`);
      this.#line(`     ${command}`);
    }
  }

  verdict(good: boolean, text: string): void {
    this.#line('');
    this.#line(`  ${this.#paint(good ? ['bold', 'green'] : ['bold', 'red'], text)}`);
    this.#line('');
  }

  /** Ends a line that is still waiting for its result. */
  interrupt(): void {
    if (this.#pending) this.#out.write('\n');
    this.#pending = false;
  }

  #cell(answer: Answer): string {
    const mark = answer.seen === 'pass' ? '✔' : answer.seen === 'blocked' ? '✖' : '?';
    const text = mark.padStart(7);
    if (differs(answer)) return this.#paint(['bold', 'red'], `${mark}!`.padStart(7));
    return this.#paint(answer.seen === 'pass' ? 'green' : 'dim', text);
  }

  #settle(mark: string, style: Style, text: string): void {
    if (this.#pending) this.#out.write('\r\u001b[K');
    this.#pending = false;
    this.#line(`  ${this.#clock()}  ${this.#paint(style, mark)} ${text}`);
  }

  #took(ms: number): string {
    return ms < 100 ? '' : this.#paint('dim', `  ${(ms / 1000).toFixed(1)} s`);
  }

  #clock(): string {
    const seconds = (performance.now() - this.#started) / 1000;
    return this.#paint('dim', `${seconds.toFixed(1).padStart(5)} s`);
  }

  #line(text: string): void {
    // Whoever sets himself apart with an empty line need not know whether the one before did.
    if (text === '' && this.#blank) return;
    this.#blank = text === '';
    this.#out.write(`${text}\n`);
  }

  #paint(style: Style, text: string): string {
    return this.#color ? styleText(style, text, { validateStream: false }) : text;
  }
}

export interface ComparedRow {
  readonly title: string;
  readonly expects: string;
  readonly seen: string;
  readonly good: boolean;
}

export interface TableRow {
  readonly title: string;
  /** In words. */
  readonly expects: string;
  readonly answers: readonly Answer[];
}
