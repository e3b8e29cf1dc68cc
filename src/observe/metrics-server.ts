import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { MeshError, messageOf } from '../core/errors.ts';
import type { Metrics } from './metrics.ts';

export interface MetricsServerOptions {
  /** `host:port` as the configuration has it, not empty. */
  readonly listen: string;
  readonly metrics: Metrics;
  /** Why the process should be restarted; undefined while it works. */
  live(): string | undefined;
  /** What it still waits for; undefined when the machine is enforced as desired. */
  ready(): string | undefined;
}

export interface MetricsServer {
  /** `http://127.0.0.1:9964` */
  readonly url: string;
  close(): Promise<void>;
}

const MAX_CLIENTS = 32;

/** Serves /metrics, /healthz and /readyz. Rejects with OBS-LISTEN. */
export async function serveMetrics(options: MetricsServerOptions): Promise<MetricsServer> {
  const colon = options.listen.lastIndexOf(':');
  const host = options.listen.slice(0, colon).replace(/^\[|\]$/g, '');
  const port = Number(options.listen.slice(colon + 1));
  const server = createServer(
    {
      requestTimeout: 5000,
      headersTimeout: 5000,
      keepAliveTimeout: 5000,
      connectionsCheckingInterval: 2000,
      maxHeaderSize: 8192,
    },
    (request, response) => void answer(options, request, response),
  );
  server.maxConnections = MAX_CLIENTS;
  server.on('clientError', (_error, socket) => socket.destroy());
  // A reader that takes nothing does not hold its answer for ever.
  server.setTimeout(30_000, (socket) => socket.destroy());
  await listen(server, { host, port, place: options.listen });
  server.on('error', () => undefined);
  const bound = server.address() as AddressInfo;
  return {
    url: `http://${bound.family === 'IPv6' ? `[${bound.address}]` : bound.address}:${bound.port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function listen(server: Server, where: { host: string; port: number; place: string }): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (cause) =>
      reject(new MeshError('OBS-LISTEN', messageOf(cause), { place: where.place, cause })),
    );
    server.listen({ host: where.host, port: where.port }, () => {
      server.removeAllListeners('error');
      resolve();
    });
  });
}

async function answer(
  options: MetricsServerOptions,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const send = (status: number, text: string, type = 'text/plain; charset=utf-8'): void => {
    response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store' });
    response.end(request.method === 'HEAD' ? undefined : text);
  };
  if (request.method !== 'GET' && request.method !== 'HEAD') return send(405, 'only GET\n');
  const path = (request.url ?? '').split('?', 1)[0];
  try {
    if (path === '/metrics') {
      send(200, await options.metrics.render(), options.metrics.registry.contentType);
    } else if (path === '/healthz' || path === '/readyz') {
      const reason = path === '/healthz' ? options.live() : options.ready();
      send(reason === undefined ? 200 : 503, reason === undefined ? 'ok\n' : `${reason}\n`);
    } else send(404, 'known: /metrics /healthz /readyz\n');
  } catch (error) {
    if (!response.headersSent) send(500, `${messageOf(error)}\n`);
  }
}
