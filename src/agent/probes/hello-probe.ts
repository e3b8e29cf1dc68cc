import { connect } from 'node:net';
import { REFUSALS } from '../../host/port-check.ts';

export type HelloOutcome = { readonly latencyMs: number } | { readonly text: string };

const WORDS: Readonly<Record<string, string>> = {
  ...REFUSALS,
  EPIPE: 'connection reset',
  EPERM: 'not permitted',
  EACCES: 'not permitted',
};
const STATUS_LINE = /^HTTP\/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n/;
/** A status line is a few words. */
const MAX_STATUS_LINE = 256;

/**
 * `GET http://<address>:<port>/hello` as cilium-health asks it: fine is status 200. Only the status line is read. A socket
 * and no HTTP client: of thousands of probes a minute the client would make most of the garbage.
 */
export function askHello(to: {
  readonly address: string;
  readonly port: number;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
}): Promise<HelloOutcome> {
  const { address, port, signal } = to;
  const start = performance.now();
  return new Promise((resolve) => {
    let answer = '';
    const socket = connect({ host: address, port, family: address.includes(':') ? 6 : 4 });
    const end = (outcome: HelloOutcome): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', stop);
      resolve(outcome);
      socket.destroy();
    };
    const timer = setTimeout(() => end({ text: 'no answer' }), to.timeoutMs);
    const stop = (): void => end({ text: 'stopped' });
    signal?.addEventListener('abort', stop, { once: true });
    socket.setNoDelay(true);
    const host = address.includes(':') ? `[${address}]` : address;
    socket.write(`GET /hello HTTP/1.1\r\nHost: ${host}:${port}\r\nUser-Agent: mesh-agent\r\nConnection: close\r\n\r\n`);
    socket.on('data', (data) => {
      answer += data.toString('latin1', 0, MAX_STATUS_LINE);
      const status = STATUS_LINE.exec(answer)?.[1];
      if (status === '200') end({ latencyMs: performance.now() - start });
      else if (status !== undefined) end({ text: `status ${status}` });
      else if (answer.length >= MAX_STATUS_LINE || answer.includes('\n')) end({ text: 'this is no HTTP' });
    });
    socket.on('end', () => end({ text: answer === '' ? 'closed without an answer' : 'this is no HTTP' }));
    socket.on('error', ({ code = '', message }: NodeJS.ErrnoException) =>
      end({ text: WORDS[code] ?? (code === '' ? message : code) }),
    );
  });
}
