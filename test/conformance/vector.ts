/** The format of policy verdict vectors: a file is one JSON array of cases. */
export interface VectorCase {
  readonly name: string;
  readonly tags?: readonly string[];
  readonly config: {
    readonly clusterName: string;
    readonly ipv4: boolean;
    readonly ipv6: boolean;
    readonly allowLocalhost: 'policy' | 'always';
    readonly policyDefaultLocalCluster: boolean;
    readonly nodeSelectorLabels?: boolean;
    readonly hostFirewall?: boolean;
    readonly l7ProxyDisabled?: boolean;
  };
  readonly enforcement?: 'default' | 'always' | 'never';
  readonly subject: VectorEndpoint;
  readonly identities?: readonly VectorEndpoint[];
  readonly dns?: readonly { readonly name: string; readonly ips: readonly string[] }[];
  readonly policies?: readonly unknown[];
  readonly policyYAML?: string;
  readonly error?: boolean;
  readonly enforcing?: Readonly<Record<'ingress' | 'egress', boolean>>;
  readonly defaultDeny?: Readonly<Record<'ingress' | 'egress', boolean>>;
  readonly flows?: readonly VectorFlow[];
}

export interface VectorEndpoint {
  readonly id: number;
  readonly labels: readonly string[];
  readonly ips?: readonly string[];
  readonly namedPorts?: readonly { readonly name: string; readonly port: number; readonly protocol: string }[];
}

export interface VectorFlow {
  readonly dir: 'ingress' | 'egress';
  readonly peer?: number;
  readonly peerIP?: string;
  readonly proto: string;
  readonly port?: number;
  readonly icmpType?: number;
  readonly verdict: 'allow' | 'deny';
  readonly l7Only?: boolean;
}
