import type { Log } from '../../observe/log.ts';
import type { CertificateAuthority } from '../../pki/authority.ts';
import type { HubConfig } from '../config.ts';
import type { MachineAccess } from '../etcd/machine-access.ts';
import type { HubStore } from '../hub-store.ts';
import type { AuditLog } from './audit.ts';
import type { Books } from './books.ts';

/** What the acts of enrolment are done with. */
export interface EnrolmentContext {
  readonly config: Pick<HubConfig, 'cluster' | 'names' | 'listen' | 'etcd'>;
  readonly store: Pick<HubStore, 'read' | 'readPrefix' | 'transact' | 'put'>;
  readonly ca: CertificateAuthority;
  readonly access: Pick<MachineAccess, 'grant' | 'revoke' | 'machines'>;
  readonly books: Books;
  readonly audit: AuditLog;
  readonly log: Log;
  /** Life of a machine's certificate. */
  readonly certificateSeconds: number;
  /** PEM of the authority of a given etcd, when it is another one than the hub's. */
  readonly storeCa: string | undefined;
  /** URLs of all hubs that run, this one first. */
  readonly hubs: () => readonly string[];
  readonly now: () => number;
}
