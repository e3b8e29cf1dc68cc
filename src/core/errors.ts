/**
 * One table of error codes: each has a summary, the remedy an operator should try first, and whether
 * trying again can help. Every face (log, status, command line, metrics) renders these same records.
 *
 * Code prefixes name the room: CFG configuration, KVS kvstore, MSH mesh, POL policy, DPN nftables data path,
 * OVL overlay, API local socket, HST host, AGT agent.
 */
export interface ErrorEntry {
  readonly summary: string;
  readonly remedy: string;
  readonly retryable: boolean;
}

const entry = (summary: string, remedy: string, retryable = false): ErrorEntry => ({ summary, remedy, retryable });

export const ERROR_CODES = {
  // configuration
  'CFG-FILE': entry('configuration file cannot be read', 'create the file or name another one with --config'),
  'CFG-SYNTAX': entry('configuration is not valid YAML', 'correct the line that is named'),
  'CFG-KEY': entry('unknown configuration key', 'remove the key or correct its spelling; `mesh-agent config show` lists the known ones'),
  'CFG-VALUE': entry('configuration value is not acceptable', 'correct the value at the place that is named'),
  // host
  'HST-NATIVE': entry('native module cannot be loaded', 'make one of $RUNTIME_DIRECTORY, /dev/shm, /var/tmp or /tmp writable and mounted without noexec'),
  'HST-COMMAND': entry('a system command failed', 'read the command output that is attached', true),
  'HST-PERMISSION': entry('the agent lacks a permission', 'run the agent as root, or grant CAP_NET_ADMIN'),
  'HST-NETLINK': entry('a netlink request failed', 'read the kernel error that is attached', true),
  // local API
  'API-UNREACHABLE': entry('the agent does not answer on its socket', 'start it with `systemctl start mesh-agent`, or name its socket with --socket', true),
  'API-REQUEST': entry('the request is not understood by the agent', 'use a command line of the same version as the agent'),
} satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof ERROR_CODES;

export interface MeshErrorOptions {
  /** Where: a file and line, a key of the store, an endpoint, a device. */
  readonly place?: string;
  readonly cause?: unknown;
}

/** An error with a code of the table; `message` is the summary plus the detail and never repeats the remedy. */
export class MeshError extends Error {
  readonly code: ErrorCode;
  readonly place: string | undefined;

  constructor(code: ErrorCode, detail: string, options: MeshErrorOptions = {}) {
    super(detail === '' ? ERROR_CODES[code].summary : `${ERROR_CODES[code].summary}: ${detail}`, { cause: options.cause });
    this.name = 'MeshError';
    this.code = code;
    this.place = options.place;
  }

  get remedy(): string {
    return ERROR_CODES[this.code].remedy;
  }

  get retryable(): boolean {
    return ERROR_CODES[this.code].retryable;
  }
}

/** The text of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
