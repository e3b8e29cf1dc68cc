import type { IncomingMessage, ServerResponse } from 'node:http';
import { pipeline } from 'node:stream/promises';
import type { PackageFile } from './packages.ts';

/** A reader that takes less than this on average holds a connection for too long. */
const LEAST_BYTES_PER_SECOND = 16 << 10;
const GRACE_MS = 60_000;

/** Sends a file, or the one part of it that was asked for (RFC 9110, section 14); closes it. */
export async function sendFile(exchange: {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly found: PackageFile;
}): Promise<void> {
  const { request, response, found } = exchange;
  const { file, size, modifiedAt } = found;
  try {
    const etag = `"${size.toString(16)}-${Math.round(modifiedAt).toString(16)}"`;
    const common = {
      'content-type': 'application/octet-stream',
      'accept-ranges': 'bytes',
      'last-modified': new Date(modifiedAt).toUTCString(),
      'x-content-type-options': 'nosniff',
      etag,
    };
    // A part of another version than the one that was begun would be worth nothing.
    const sameVersion = request.headers['if-range'] === undefined || request.headers['if-range'] === etag;
    const part = sameVersion ? partOf(request.headers.range, size) : 'all';
    if (part === 'none') {
      response.writeHead(416, { ...common, 'content-range': `bytes */${size}`, 'content-length': 0 });
      response.end();
      return;
    }
    const [start, end] = part === 'all' ? [0, size - 1] : part;
    const length = end - start + 1;
    response.writeHead(part === 'all' ? 200 : 206, {
      ...common,
      'content-length': length,
      ...(part !== 'all' && { 'content-range': `bytes ${start}-${end}/${size}` }),
    });
    if (request.method === 'HEAD' || length === 0) {
      response.end();
      return;
    }
    const slow = setTimeout(() => response.destroy(), GRACE_MS + (length / LEAST_BYTES_PER_SECOND) * 1000);
    try {
      await pipeline(file.createReadStream({ start, end, autoClose: false }), response);
    } finally {
      clearTimeout(slow);
    }
  } finally {
    await file.close();
  }
}

/** Of several parts the whole is sent: that is allowed, and nobody needs more. */
function partOf(range: string | undefined, size: number): 'all' | 'none' | readonly [number, number] {
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(range ?? '');
  if (match === null) return 'all';
  const [, first = '', last = ''] = match;
  if (first === '' && last === '') return 'all';
  if (first === '') {
    const length = Math.min(Number(last), size);
    return length === 0 ? 'none' : [size - length, size - 1];
  }
  const start = Number(first);
  const end = last === '' ? size - 1 : Math.min(Number(last), size - 1);
  if (last !== '' && Number(last) < start) return 'all';
  return start >= size ? 'none' : [start, end];
}
