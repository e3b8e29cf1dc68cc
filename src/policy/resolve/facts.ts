import type { NumericIdentity } from '../../core/identity.ts';
import type { LabelSet } from '../../core/labels.ts';
import type { NamedPorts } from './named-ports.ts';

/** Identities whose labels are known. */
export interface IdentityFacts {
  labelsOf(id: NumericIdentity): LabelSet | undefined;
  all(): Iterable<readonly [NumericIdentity, LabelSet]>;
  namedPortsOf(id: NumericIdentity): NamedPorts | undefined;
  withNamedPorts(): Iterable<NumericIdentity>;
  /** Labels by which an identity is selected besides its own (specification 6.3.10), or undefined. */
  aliasOf(id: NumericIdentity): LabelSet | undefined;
}
