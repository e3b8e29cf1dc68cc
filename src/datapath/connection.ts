import type { DatapathStatus } from './datapath.ts';

/** One connection as the kernel remembers it, seen from this machine. */
export interface KernelConnection {
  /** In which it was opened. */
  readonly direction: keyof DatapathStatus['denied'];
  /** IP protocol number. */
  readonly protocol: number;
  readonly remote: ConnectionEnd;
  readonly local: ConnectionEnd;
  /** `opening`: nobody has answered yet; `closing`: both sides said goodbye; `denied`: its policy was withdrawn. */
  readonly state: 'opening' | 'open' | 'closing' | 'denied';
  /** Seconds after which it is forgotten if nothing more comes. */
  readonly expiresIn: number;
}

export interface ConnectionEnd {
  /** Canonical text. */
  readonly address: string;
  /** 0 for protocols without. */
  readonly port: number;
}
