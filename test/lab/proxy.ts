import { once } from 'node:events';
import { type AddressInfo, createServer, connect as dial, type Server, type Socket } from 'node:net';

/** How the bytes of one direction go through. */
interface Path {
  readonly from: Socket;
  readonly to: Socket;
}

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
    client.on('data', (data) => this.#pass({ from: client, to: server }, data, 0));
    server.on('data', (data) => this.#pass({ from: server, to: client }, data, this.bytesPerSecond));
  }

  #pass(path: Path, data: Buffer, bytesPerSecond: number): void {
    const { from, to } = path;
    if (this.#blackhole) return;
    const wait = this.latencyMs + (bytesPerSecond > 0 ? (data.length / bytesPerSecond) * 1000 : 0);
    const write = (): void => {
      if (this.#blackhole || to.destroyed) return;
      // Whoever does not read holds up whoever sends.
      if (!to.write(data)) to.once('drain', () => from.resume());
      else from.resume();
    };
    from.pause();
    if (wait > 0) setTimeout(write, wait);
    else write();
  }
}
