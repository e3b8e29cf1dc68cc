/** Work that must not overlap: one piece after the other, in the order in which it came, whether the one before failed or not. */
export class OneByOne {
  #last: Promise<unknown> = Promise.resolve();

  run<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#last.then(work);
    this.#last = result.catch(() => undefined);
    return result;
  }

  /** When everything so far is done. Never rejects. */
  async idle(): Promise<void> {
    await this.#last;
  }
}
