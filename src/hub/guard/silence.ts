import type { ServerHttp2Session } from 'node:http2';
import type { Socket } from 'node:net';

/** What was heard of a client at the last look. */
export interface Heard {
  bytes: number;
  /** Looks in a row at which there was nothing new. */
  silentLooks: number;
}

export const LOOK_MS = 5_000;
const SILENT_LOOKS = 3;

/**
 * Whether a client is gone without a word: nothing came from it at three looks in a row, although it was asked (PING of
 * HTTP/2, which each client answers by itself). TCP alone would keep the connection of a machine without power for
 * a quarter of an hour. Whoever talks anyway is not asked: our agents ping by themselves every six seconds.
 */
export function isGone(client: {
  readonly session: ServerHttp2Session;
  readonly socket: Socket;
  readonly heard: Heard;
}): boolean {
  const { session, socket, heard } = client;
  const { bytesRead } = socket;
  heard.silentLooks = bytesRead === heard.bytes ? heard.silentLooks + 1 : 0;
  heard.bytes = bytesRead;
  if (heard.silentLooks === 0) return false;
  if (heard.silentLooks >= SILENT_LOOKS) return true;
  // Its answer is counted like anything else; that it cannot be sent is seen at the next look.
  if (!session.destroyed) session.ping(() => {});
  return false;
}
