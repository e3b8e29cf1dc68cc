import { type ClientRequest, request } from 'node:http';

export type HelloOutcome = { readonly latencyMs: number } | { readonly text: string };

const WORDS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'connection refused',
  ECONNRESET: 'connection reset',
  EHOSTUNREACH: 'no route to host',
  ENETUNREACH: 'network unreachable',
  ETIMEDOUT: 'no answer',
  EPERM: 'not permitted',
  EACCES: 'not permitted',
};
const MAX_HEADER_BYTES = 4096;

/** `GET http://<address>:<port>/hello` as cilium-health asks it: fine is status 200, of a body nothing is read. */
export function askHello(to: {
  readonly address: string;
  readonly port: number;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
}): Promise<HelloOutcome> {
  const start = performance.now();
  return new Promise((resolve) => {
    let asked: ClientRequest | undefined;
    const end = (outcome: HelloOutcome): void => {
      clearTimeout(timer);
      to.signal?.removeEventListener('abort', stop);
      resolve(outcome);
      asked?.destroy();
    };
    const timer = setTimeout(() => end({ text: 'no answer' }), to.timeoutMs);
    const stop = (): void => end({ text: 'stopped' });
    to.signal?.addEventListener('abort', stop, { once: true });
    asked = request({
      host: to.address,
      port: to.port,
      path: '/hello',
      agent: false,
      maxHeaderSize: MAX_HEADER_BYTES,
      headers: { 'user-agent': 'mesh-agent', connection: 'close' },
    });
    asked.on('response', ({ statusCode }) =>
      end(statusCode === 200 ? { latencyMs: performance.now() - start } : { text: `status ${statusCode}` }),
    );
    asked.on('error', (error: NodeJS.ErrnoException) => {
      const code = error.code ?? '';
      end({ text: WORDS[code] ?? (code.startsWith('HPE_') ? 'this is no HTTP' : code || error.message) });
    });
    asked.end();
  });
}
