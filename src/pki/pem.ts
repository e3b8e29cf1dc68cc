/** PEM (RFC 7468): blocks of base64 between lines that name what they are. */
export function toPem(label: string, data: Buffer): string {
  const lines = data.toString('base64').match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`;
}

/** The content of the blocks with this label. Throws RangeError when there are others or not as many as expected. */
export function fromPem(
  text: string,
  options: { readonly label: string; readonly maxBytes: number; readonly exactly?: number },
): Buffer[] {
  const { label, maxBytes, exactly } = options;
  if (text.length > maxBytes) throw new RangeError(`more than ${maxBytes} bytes`);
  const blocks = [...text.matchAll(/-----BEGIN ([A-Z0-9 ]{1,40})-----\r?\n([A-Za-z0-9+/=\s]*?)-----END \1-----/g)];
  for (const [, found] of blocks) if (found !== label) throw new RangeError(`a PEM block of ${label} is expected`);
  if (blocks.length === 0 || (exactly !== undefined && blocks.length !== exactly))
    throw new RangeError(`${exactly ?? 'at least one'} PEM block of ${label} is expected`);
  return blocks.map(([, , body = '']) => Buffer.from(body, 'base64'));
}
