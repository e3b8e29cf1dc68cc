import type { Log } from '../../observe/log.ts';
import type { CertificateAuthority } from '../../pki/authority.ts';
import type { HubConfig } from '../config.ts';
import type { MachineAccess } from '../etcd/machine-access.ts';
import type { HubStore } from '../hub-store.ts';
import type { AuditLog } from './audit.ts';
import type { Books } from './books.ts';
import type { HubPlace } from './hub-places.ts';

/** What the acts of enrolment are done with. */
export interface EnrolmentContext {
  readonly config: Pick<HubConfig, 'cluster'>;
  readonly store: Pick<HubStore, 'read' | 'readPrefix' | 'transact' | 'put'>;
  readonly ca: CertificateAuthority;
  readonly access: Pick<MachineAccess, 'grant' | 'revoke' | 'machines'>;
  readonly books: Books;
  readonly audit: AuditLog;
  readonly log: Log;
  /** Life of a machine's certificate. */
  readonly certificateSeconds: number;
  /** All hubs that run, this one first. */
  readonly hubs: () => readonly HubPlace[];
  readonly now: () => number;
}
