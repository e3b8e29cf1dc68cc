import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { MeshError, messageOf } from '../core/errors.ts';

export interface TlsFiles {
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
}

export interface Findings {
  readonly problems: MeshError[];
  readonly warnings: MeshError[];
}

/** A certificate that ends sooner is worth a warning, unless it is one of days that is renewed by itself. */
const SOON_MS = 14 * 86_400_000;
const SOON_SHARE = 1 / 6;
const MAX_BYTES = 1 << 20;
const PEM_CERTIFICATE = /-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g;

/** Whether the files can be read, are what they should be, are valid at this moment, and fit together. */
export function checkTlsFiles(files: TlsFiles, findings: Findings, now = Date.now()): void {
  if (files.ca !== undefined) checkCertificates(files.ca, findings, now);
  const certificate = files.cert === undefined ? undefined : checkCertificates(files.cert, findings, now);
  const key = files.key === undefined ? undefined : checkKey(files.key, findings);
  if (certificate === undefined || key === undefined || certificate.checkPrivateKey(key)) return;
  findings.problems.push(
    new MeshError('CFG-CERTIFICATE', `the private key does not belong to the certificate ${files.cert}`, {
      place: files.key ?? '',
    }),
  );
}

/** @returns the first certificate of the file */
function checkCertificates(file: string, findings: Findings, now: number): X509Certificate | undefined {
  const text = readLimited(file, findings);
  if (text === undefined) return undefined;
  const blocks = text.match(PEM_CERTIFICATE) ?? [];
  if (blocks.length === 0) bad(file, 'there is no PEM certificate in the file', findings);
  const certificates = blocks.map((block, index) => {
    try {
      const certificate = new X509Certificate(block);
      checkTime(certificate, { file, findings, now });
      return certificate;
    } catch (cause) {
      bad(file, `certificate ${index + 1} cannot be read: ${messageOf(cause)}`, findings);
      return undefined;
    }
  });
  return certificates[0];
}

function checkTime(certificate: X509Certificate, context: { file: string; findings: Findings; now: number }): void {
  const { file, findings, now } = context;
  const subject = certificate.subject.replaceAll('\n', ', ');
  const [from, to] = [certificate.validFromDate, certificate.validToDate];
  if (to.getTime() < now) bad(file, `${subject} expired on ${to.toISOString()}`, findings);
  else if (from.getTime() > now) bad(file, `${subject} is valid from ${from.toISOString()} only`, findings);
  else if (to.getTime() - now < Math.min(SOON_MS, (to.getTime() - from.getTime()) * SOON_SHARE)) {
    const detail = `${subject} expires on ${to.toISOString()}`;
    findings.warnings.push(new MeshError('CFG-CERTIFICATE', detail, { place: file }));
  }
}

function checkKey(file: string, findings: Findings): KeyObject | undefined {
  const text = readLimited(file, findings);
  if (text === undefined) return undefined;
  if ((statSync(file).mode & 0o007) !== 0) {
    findings.warnings.push(
      new MeshError('CFG-EXPOSED', 'everyone on this machine may read the private key', { place: file }),
    );
  }
  try {
    return createPrivateKey(text);
  } catch {
    // The reason could quote the key.
    const encrypted = text.includes('ENCRYPTED');
    bad(file, encrypted ? 'the private key is encrypted' : 'there is no PEM private key in the file', findings);
    return undefined;
  }
}

function readLimited(file: string, findings: Findings): string | undefined {
  try {
    const { size } = statSync(file);
    if (size > MAX_BYTES) throw new Error(`it has ${size} bytes, more than the ${MAX_BYTES} that are read`);
    return readFileSync(file, 'latin1');
  } catch (cause) {
    findings.problems.push(new MeshError('CFG-FILE', messageOf(cause), { place: file, cause }));
    return undefined;
  }
}

function bad(file: string, detail: string, findings: Findings): void {
  findings.problems.push(new MeshError('CFG-CERTIFICATE', detail, { place: file }));
}
