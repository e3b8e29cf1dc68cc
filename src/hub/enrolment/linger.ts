import type { IncomingMessage, ServerResponse } from 'node:http';

export interface LingerLimits {
  /** Milliseconds and bytes: what still comes after the answer is read and thrown away for so long, and so far. */
  readonly lingerMs: number;
  readonly lingerBytes: number;
}

export const LINGER: LingerLimits = { lingerMs: 5_000, lingerBytes: 16 << 20 };

/**
 * Writes the rest of an answer to a request that is still being sent, and ends the connection once the client has ended. A
 * connection that is closed while bytes are unread is reset, and a reset takes an answer that the client has not read yet
 * with it. The head must have told the length: a client that reads knows at once that the answer is whole.
 */
export function endLingering(
  request: IncomingMessage,
  response: ServerResponse,
  { text, lingerMs, lingerBytes }: LingerLimits & { readonly text: string },
): void {
  let read = 0;
  const discard = (chunk: Buffer): void => {
    read += chunk.length;
    if (read > lingerBytes) end();
  };
  const end = (): void => {
    clearTimeout(timer);
    request.off('data', discard);
    request.off('close', end);
    response.end();
  };
  const timer = setTimeout(end, lingerMs);
  request.on('data', discard);
  request.once('close', end);
  request.on('error', () => {});
  response.write(text);
  request.resume();
}
