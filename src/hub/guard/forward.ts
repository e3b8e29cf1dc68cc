import {
  type ClientHttp2Session,
  constants,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2';
import { checkRequest, isAllowed } from './check-request.ts';
import { MessageSplitter } from './message-splitter.ts';

/** etcd takes 1.5 MiB and a little. */
const MAX_MESSAGE = 2 << 20;
/** What etcd needs to know; nothing else of a stranger's headers gets to it. */
const PASSED = ['content-type', 'te', 'user-agent', 'grpc-timeout', 'grpc-accept-encoding', 'hasleader'];
const GRPC = { permissionDenied: 7, resourceExhausted: 8, unavailable: 14 } as const;

/** The client writes more than it may. */
class TooMuch extends Error {}

/** Answers one call: checks every message of the client, and hands the answer of etcd through as it is. */
export function forward(options: {
  readonly stream: ServerHttp2Stream;
  readonly headers: IncomingHttpHeaders;
  readonly upstream: ClientHttp2Session;
  /** Whether a message of so many bytes may pass by now. */
  readonly admits: (path: string, bytes: number) => boolean;
  readonly onRefused: (reason: string) => void;
}): void {
  const { stream, headers, upstream, admits, onRefused } = options;
  const path = String(headers[':path']);
  stream.on('error', () => {});
  const refuse = (reason: string): void => {
    onRefused(reason);
    // In etcd's words, so that clients know what to make of it.
    fail(stream, GRPC.permissionDenied, `etcdserver: permission denied: ${reason}`);
  };
  if (headers[':method'] !== 'POST' || !isAllowed(path)) {
    refuse('this method is not for clients of the mesh');
    return;
  }
  if (upstream.closed || upstream.destroyed) {
    fail(stream, GRPC.unavailable, 'etcd is away');
    return;
  }
  const call = upstream.request(requestHeaders(path, headers), { endStream: false });
  const splitter = new MessageSplitter(MAX_MESSAGE);
  const drop = (): void => {
    if (!call.destroyed) call.close(constants.NGHTTP2_CANCEL);
  };
  stream.on('data', (chunk: Buffer) => {
    try {
      for (const { frame, message } of splitter.push(chunk)) {
        const problem = checkRequest(path, message);
        if (problem !== undefined) throw new RangeError(problem);
        if (!admits(path, message.length)) throw new TooMuch('too many writes');
        if (!call.write(frame)) stream.pause();
      }
    } catch (error) {
      drop();
      stream.removeAllListeners('data');
      if (error instanceof TooMuch) {
        onRefused(error.message);
        fail(stream, GRPC.resourceExhausted, 'etcdserver: too many requests');
      } else refuse((error as Error).message);
    }
  });
  call.on('drain', () => stream.resume());
  stream.on('end', () => call.end());
  stream.on('close', drop);
  answer(stream, call);
}

function requestHeaders(path: string, headers: IncomingHttpHeaders): OutgoingHttpHeaders {
  const passed: OutgoingHttpHeaders = { ':method': 'POST', ':path': path };
  for (const name of PASSED) if (headers[name] !== undefined) passed[name] = headers[name];
  return passed;
}

function answer(stream: ServerHttp2Stream, call: ReturnType<ClientHttp2Session['request']>): void {
  let trailers: OutgoingHttpHeaders = {};
  call.on('response', (headers, flags) => {
    if (stream.destroyed || stream.closed || stream.headersSent) return;
    const sent = withoutControl(headers);
    // An answer of headers alone is an error, with its status in them.
    if ((flags & constants.NGHTTP2_FLAG_END_STREAM) !== 0) {
      stream.respond(sent, { endStream: true });
      return;
    }
    stream.respond(sent, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers(trailers));
    call.pipe(stream);
  });
  call.on('trailers', (headers) => {
    trailers = withoutControl(headers);
  });
  call.on('error', () => fail(stream, GRPC.unavailable, 'etcd is away'));
  call.on('close', () => {
    if (!stream.headersSent) fail(stream, GRPC.unavailable, 'etcd is away');
    else if (call.rstCode !== constants.NGHTTP2_NO_ERROR && !stream.destroyed) stream.close(call.rstCode);
  });
}

function withoutControl(headers: IncomingHttpHeaders): OutgoingHttpHeaders {
  const all: OutgoingHttpHeaders = { ...headers };
  for (const name of ['connection', 'transfer-encoding', 'keep-alive', 'date']) delete all[name];
  return all;
}

function fail(stream: ServerHttp2Stream, status: number, message: string): void {
  if (stream.destroyed || stream.closed) return;
  if (stream.headersSent) {
    stream.close(constants.NGHTTP2_CANCEL);
    return;
  }
  const text = encodeURIComponent(message).replaceAll('%20', ' ');
  const headers = { ':status': 200, 'content-type': 'application/grpc', 'grpc-status': status, 'grpc-message': text };
  stream.respond(headers, { endStream: true });
}
