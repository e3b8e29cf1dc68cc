import { X509Certificate } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { LoadedConfig } from '../../config/load.ts';
import { messageOf } from '../../core/errors.ts';
import { configuredStores } from '../../doctor/store/store-list.ts';

const MAX_BYTES = 1 << 20;
const PEM = /-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g;

/** What is public of every certificate that the configuration names, and of those of joining. */
export async function certificateFacts(loaded: LoadedConfig | undefined): Promise<object[]> {
  if (loaded === undefined) return [];
  const { config } = loaded;
  const files = (await configuredStores(config)).flatMap(({ etcd }) => [etcd?.ca, etcd?.cert]);
  const pki = join(config.stateDir, 'pki');
  const all = new Set([...files, join(pki, 'ca.crt'), join(pki, 'agent.crt')].filter((file) => file !== undefined));
  return (await Promise.all([...all].map(factsOf))).flat();
}

async function factsOf(file: string): Promise<object[]> {
  try {
    if ((await stat(file)).size > MAX_BYTES) return [{ file, problem: 'too large' }];
    const found = (await readFile(file, 'latin1')).match(PEM) ?? [];
    return found.map((text) => {
      const { subject, issuer, validFrom, validTo, serialNumber, subjectAltName, ca, fingerprint256 } =
        new X509Certificate(text);
      return { file, subject, issuer, validFrom, validTo, serialNumber, subjectAltName, ca, fingerprint256 };
    });
  } catch (error) {
    return [{ file, problem: messageOf(error) }];
  }
}
