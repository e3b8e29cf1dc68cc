/** What became of the objects of Kubernetes. */
export interface Outcome {
  /** Objects of our store that are from there. */
  readonly count: number;
  readonly changed: number;
  readonly refused: readonly RefusedObject[];
  /** Names of objects that are made by hand as well. */
  readonly conflicts: readonly string[];
}

export interface RefusedObject {
  readonly name: string;
  readonly reason: string;
  /** A version of before is in force. */
  readonly kept: boolean;
}
