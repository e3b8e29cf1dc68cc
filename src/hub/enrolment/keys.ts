/** Keys of enrolment in the store: docs/hub.md. Only hubs read and write them. */
export const TOKENS_PREFIX = 'mesh-agent/v1/tokens/';
export const CERTIFICATES_PREFIX = 'mesh-agent/v1/certificates/';
/** `<name>/<serial>` and `<name>/token/<id>`, without values: which certificates and tokens a machine has. */
export const MACHINES_PREFIX = 'mesh-agent/v1/machines/';
/** `<serial>`, without a value: who shows such a certificate is not let in. */
export const REVOKED_PREFIX = 'mesh-agent/v1/revoked/';
export const AUDIT_PREFIX = 'mesh-agent/v1/audit/';
/** URLs at which hubs that run enrol machines, under leases. */
export const HUBS_PREFIX = 'mesh-agent/v1/hubs/';

/** An object of ours in the store; undefined when it is none. */
export function parseObject(value: Buffer): Readonly<Record<string, unknown>> | undefined {
  try {
    const found: unknown = JSON.parse(value.toString('utf8'));
    return typeof found === 'object' && found !== null && !Array.isArray(found)
      ? (found as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined;
  }
}
