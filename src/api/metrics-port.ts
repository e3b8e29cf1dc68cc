import { MeshError, messageOf } from '../core/errors.ts';
import type { Log } from '../observe/log.ts';
import { type MetricsServer, type MetricsServerOptions, serveMetrics } from '../observe/metrics-server.ts';
import type { Health } from './health.ts';

export interface MetricsPortOptions extends Omit<MetricsServerOptions, 'listen'> {
  readonly health: Health;
  readonly log: Log;
}

/** Where metrics are served; a port that is taken is told, and costs the metrics, not the agent. */
export class MetricsPort {
  readonly #options: MetricsPortOptions;
  #server: MetricsServer | undefined;

  constructor(options: MetricsPortOptions) {
    this.#options = options;
  }

  /** Serves there and nowhere else; `host:port`, or empty for nowhere. Never rejects. */
  async listen(listen: string): Promise<void> {
    const { health, log, ...options } = this.#options;
    // First: the new address may overlap the old one.
    await this.close();
    health.clear('metrics', 'OBS-LISTEN');
    if (listen === '') return;
    try {
      this.#server = await serveMetrics({ ...options, listen });
      log.info('metrics are served', { url: this.#server.url });
    } catch (error) {
      const known =
        error instanceof MeshError ? error : new MeshError('OBS-LISTEN', messageOf(error), { cause: error });
      health.fail('metrics', known);
    }
  }

  async close(): Promise<void> {
    await this.#server?.close();
    this.#server = undefined;
  }
}
