/** What of the configuration the outcome depends on. */
export interface PolicySettings {
  /** Name of the cluster that this machine belongs to. */
  readonly clusterName: string;
  /** Both families in use: the world is 9 and 10, else 2. */
  readonly dualStack: boolean;
  readonly enforcement: 'default' | 'always' | 'never';
  /** `always`: the local host (identity 1) may open connections to the machine, unless denied. */
  readonly allowLocalhost: 'policy' | 'always';
  /** Selectors of peers that name no cluster mean the own one (`policy-default-local-cluster`, specification 5.3). */
  readonly defaultLocalCluster: boolean;
  /** Host policies apply when the subject is a host. Default false: a host is never enforced. */
  readonly hostFirewall?: boolean;
}
