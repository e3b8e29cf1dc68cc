import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { assetPath } from '../assets.ts';
import type { MapShape } from './map.ts';

/** One program of a compiled object: instructions, and where in them (by number) the descriptor of which map goes. */
export interface BpfProgram {
  readonly name: string;
  /** What it attaches to, in the words of libbpf: `cgroup/connect4`. */
  readonly section: string;
  /** Base64. */
  readonly instructions: string;
  readonly maps: readonly (readonly [instruction: number, map: string])[];
}

/** What scripts/bpf-object.mjs made of one file of native/bpf. */
export interface BpfObject {
  readonly maps: readonly MapShape[];
  readonly programs: readonly BpfProgram[];
  /** Of programs and maps: another one, another version. */
  readonly digest: string;
}

/** Reads a compiled object that travels with the agent. */
export function readBpfObject(name: string): BpfObject {
  const text = readFileSync(assetPath(`native/${name}.bpf.json`), 'utf8');
  const digest = createHash('sha256').update(text).digest('hex').slice(0, 16);
  return { ...(JSON.parse(text) as Pick<BpfObject, 'maps' | 'programs'>), digest };
}
