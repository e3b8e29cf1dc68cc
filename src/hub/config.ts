/** `hub.yaml`, as docs/hub.md describes it. */
export interface HubConfig {
  readonly cluster: { readonly name: string; readonly id: number };
  /** Canonical prefixes, disjoint. */
  readonly pools: readonly string[];
  /** `host:port`. */
  readonly listen: { readonly etcd: string; readonly enrolment: string };
  /** Names and addresses of the server's certificate; the first is told to machines. Never empty. */
  readonly names: readonly string[];
  /** Empty: an etcd of its own. */
  readonly etcd: { readonly endpoints: readonly string[] };
  readonly maxClusters: 255 | 511;
  readonly metrics: { readonly listen: string };
  readonly log: {
    readonly level: 'trace' | 'debug' | 'info' | 'warn' | 'error';
    readonly format: 'auto' | 'json' | 'pretty';
  };
}
