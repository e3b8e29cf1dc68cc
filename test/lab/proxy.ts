import { once } from 'node:events';
import { type AddressInfo, createServer, connect as dial, type Server, type Socket } from 'node:net';

/**
 * A TCP proxy on 127.0.0.1 that breaks connections in the ways that networks do. Made for one target; everything may be
 * changed while connections are open.
 */
export class TcpProxy {
  readonly #server: Server;
  readonly #target: { readonly host: string; readonly port: number };
  readonly #pairs = new Set<{ client: Socket; server: Socket }>();
  #blackhole = false;
  #refuse = false;
  /** Milliseconds that each piece of data waits, in either direction. */
  latencyMs = 0;
  /** Towards the client; 0 is unlimited. */
  bytesPerSecond = 0;
  /** Connections that were accepted so far. */
  accepted = 0;

  private constructor(server: Server, target: { host: string; port: number }) {
    this.#server = server;
    this.#target = target;
    server.on('connection', (client) => this.#accept(client));
  }

  /** `target` is the URL or the `host:port` of the real server. */
  static async start(target: string): Promise<TcpProxy> {
    const url = new URL(target.includes('://') ? target : `http://${target}`);
    const server = createServer({ allowHalfOpen: false });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new TcpProxy(server, { host: url.hostname, port: Number(url.port) });
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** `http://127.0.0.1:port`. */
  get endpoint(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  get connections(): number {
    return this.#pairs.size;
  }

  /** Ends all connections with a reset; new ones are accepted. */
  cut(): void {
    for (const { client, server } of this.#pairs) {
      client.resetAndDestroy();
      server.resetAndDestroy();
    }
  }

  /** Ends all connections, and every new one at once. */
  refuse(): void {
    this.#refuse = true;
    this.cut();
  }

  /** Swallows everything: connections stay open and silent, new ones are accepted and silent. */
  blackhole(): void {
    this.#blackhole = true;
  }

  /** Everything works again. What was swallowed is lost, so what was open is cut. */
  heal(): void {
    if (this.#blackhole) this.cut();
    this.#blackhole = false;
    this.#refuse = false;
  }

  async close(): Promise<void> {
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.cut();
    await closed;
  }

  #accept(client: Socket): void {
    this.accepted++;
    client.on('error', () => {});
    if (this.#refuse) {
      client.resetAndDestroy();
      return;
    }
    const server = dial({ ...this.#target, noDelay: true });
    client.setNoDelay(true);
    const pair = { client, server };
    this.#pairs.add(pair);
    const end = (): void => {
      this.#pairs.delete(pair);
      client.destroy();
      server.destroy();
    };
    server.on('error', end);
    client.on('close', end);
    server.on('close', end);
    this.#pump(client, server, () => 0);
    this.#pump(server, client, () => this.bytesPerSecond);
  }

  /** Bytes leave in their order: each waits its turn on the line, then the latency. */
  #pump(from: Socket, to: Socket, rate: () => number): void {
    const queue: { data: Buffer; due: number }[] = [];
    let timer: NodeJS.Timeout | undefined;
    let waiting = 0;
    let free = 0;
    const run = (): void => {
      timer = undefined;
      for (let first = queue[0]; first !== undefined; first = queue[0]) {
        const wait = first.due - performance.now();
        if (wait > 0) {
          timer = setTimeout(run, wait);
          return;
        }
        queue.shift();
        waiting -= first.data.length;
        if (!this.#blackhole && !to.destroyed) to.write(first.data);
      }
      if (to.writableNeedDrain) to.once('drain', () => from.resume());
      else from.resume();
    };
    from.on('close', () => clearTimeout(timer));
    from.on('data', (data) => {
      if (this.#blackhole) return;
      const bytesPerSecond = rate();
      free = Math.max(free, performance.now()) + (bytesPerSecond > 0 ? (data.length / bytesPerSecond) * 1000 : 0);
      queue.push({ data, due: free + this.latencyMs });
      waiting += data.length;
      // Whoever sends more than the line carries is held up.
      if (waiting > 65_536 || to.writableNeedDrain) from.pause();
      if (timer === undefined) run();
    });
  }
}
