/** Why a packet was dropped: Cilium's numbers, texts (`pkg/monitor/api/drop.go`) and names (`flow.DropReason`). */
export interface DropReason {
  readonly number: number;
  /** As `cilium monitor` and the metrics say it. */
  readonly text: string;
  /** As Hubble says it. */
  readonly name: string;
}

const reason = (number: number, text: string, name: string): DropReason => ({ number, text, name });

/** Those that this data path has. */
export const DROP = {
  noRule: reason(133, 'Policy denied', 'POLICY_DENIED'),
  invalid: reason(134, 'Invalid packet', 'INVALID_PACKET_DROPPED'),
  noBackend: reason(158, 'Service backend not found', 'SERVICE_BACKEND_NOT_FOUND'),
  spoofedTunnel: reason(170, 'Encapsulation traffic is prohibited', 'ENCAPSULATION_TRAFFIC_IS_PROHIBITED'),
  unknownSender: reason(172, 'Unknown sender', 'UNKNOWN_SENDER'),
  denyRule: reason(181, 'Policy denied by denylist', 'POLICY_DENY'),
  needsAuthentication: reason(189, 'Authentication required', 'AUTH_REQUIRED'),
} as const;
