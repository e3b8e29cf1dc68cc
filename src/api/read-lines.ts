import { StringDecoder } from 'node:string_decoder';

/** The lines of a stream while they come. Throws when one is longer than `max` characters, or when the last has no end. */
export async function* readLines(stream: AsyncIterable<Buffer>, max: number): AsyncGenerator<string> {
  const decoder = new StringDecoder('utf8');
  let parts: string[] = [];
  let held = 0;
  for await (const chunk of stream) {
    const lines = decoder.write(chunk).split('\n');
    const last = lines.pop() ?? '';
    for (const line of lines) {
      yield parts.length === 0 ? line : parts.join('') + line;
      parts = [];
      held = 0;
    }
    parts.push(last);
    held += last.length;
    if (held > max) throw new Error('a line is too long');
  }
  if (held > 0) throw new Error('the last line has no end');
}
