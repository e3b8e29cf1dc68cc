/** What the overlay is, for status, metrics and health. */
export interface OverlayStatus {
  /** The device is there and every route that is wanted is in the kernel. */
  readonly applied: boolean;
  /** Undefined while no overlay is wanted. */
  readonly device: string | undefined;
  readonly mtu: number | undefined;
  readonly routes: { readonly hosts: number; readonly prefixes: number };
  /** Routes that are wanted but not made, each with its reason; a few examples, and how many there are. */
  readonly refused: { readonly count: number; readonly examples: readonly string[] };
  /** Prefixes to which somebody else has a route as well, which is preferred to ours and never touched. */
  readonly shadowed: { readonly count: number; readonly examples: readonly string[] };
  readonly error: { readonly code: string; readonly message: string; readonly since: number } | undefined;
  /** How often a foreign change was noticed, and how often one was undone. */
  readonly drifted: number;
  readonly healed: number;
}
