import type { CertificateAuthority } from '../pki/authority.ts';
import type { HubFolder } from './folder.ts';

/** Keys and certificates of the hub. */
export interface HubPki {
  readonly ca: CertificateAuthority;
  /** PEM of the certificate that this hub shows to machines, and of its key. */
  readonly server: { readonly certificate: string; readonly key: string };
  readonly folder: HubFolder;
}
